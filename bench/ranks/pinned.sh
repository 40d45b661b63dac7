#!/bin/sh
# Runs a command as a rank on the core with the rank's number, modulo the number of cores.
rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}
exec taskset -c "$((rank % $(nproc --all)))" "$@"

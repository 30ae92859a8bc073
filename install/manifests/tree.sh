#!/usr/bin/env bash
# tree.sh OUT BINARY...: lays out the container's root file system.
set -euo pipefail

(($# > 1)) || { echo "usage: ${0##*/} OUT BINARY..." >&2; exit 64; }
out=$1
shift

rm -rf "$out"
# The mount points must exist: the container's root is read-only.
mkdir -p "$out"/{etc/{sluice,cni/net.d},opt/cni/bin,proc,run/{netns,sluice},sys,var/lib/{cni,sluice}}
install -D -t "$out/bin" "$@"
# Runtimes name a Pod's namespace /var/run/netns/….
ln -s /run "$out/var/run"

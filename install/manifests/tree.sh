#!/usr/bin/env bash
# tree.sh BINARIES OUT: lays out the container's root file system.
set -euo pipefail

(($# == 2)) || { echo "usage: ${0##*/} BINARIES OUT" >&2; exit 64; }
binaries=$1 out=$2

rm -rf "$out"
# The mount points must exist: the container's root is read-only.
mkdir -p "$out"/{etc/{sluice,cni/net.d},opt/cni/bin,proc,run/{netns,sluice},sys,var/lib/sluice}
install -D -t "$out/bin" "$binaries"/{sluiced,sluice-cni,sluice-install}
# Runtimes name a Pod's namespace /var/run/netns/….
ln -s /run "$out/var/run"

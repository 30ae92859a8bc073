#!/usr/bin/env bash
# containerd.sh RELEASE: containerd and the reference plugins of CNI from another Debian release: unpacked, not installed.
#
# trixie has containerd 1.7; sid has containerd 2, with plugins of CNI 1.1.
source "${BASH_SOURCE[0]%/*}/lib.sh"
source "$ROOT/setup/debian.sh"

release=${1:?usage: setup/containerd.sh RELEASE}
directory=$DEBIAN/containerd-$release

unpack_containerd() {
    local architecture
    architecture=$(dpkg --print-architecture)
    foreign_release "$architecture" "$release"
    foreign_unpack "$architecture" "$directory" containerd containernetworking-plugins
}

if [[ ! -e $directory ]]; then
    step "containerd-$release" "containerd from Debian's $release" "check the apt sources and the network, then try again" unpack_containerd
fi

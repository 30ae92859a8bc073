#!/usr/bin/env bash
# containerd 2 and the reference plugins of CNI 1.1 from Debian's unstable release: unpacked, not installed.
source "${BASH_SOURCE[0]%/*}/lib.sh"
source "$ROOT/setup/debian.sh"

unpack_containerd() {
    local architecture
    architecture=$(dpkg --print-architecture)
    foreign_release "$architecture" sid
    foreign_unpack "$architecture" "$DEBIAN/containerd" containerd containernetworking-plugins
}

if [[ ! -e $DEBIAN/containerd ]]; then
    step containerd "containerd 2 from Debian's unstable release" "check the apt sources and the network, then try again" unpack_containerd
fi

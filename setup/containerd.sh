#!/usr/bin/env bash
# containerd.sh RELEASE: containerd, runc and the reference plugins of CNI from another Debian release: unpacked, not
# installed.
#
# trixie has containerd 1.7; sid has containerd 2, a runc with mapped mounts, and plugins of CNI 1.1.
source "${BASH_SOURCE[0]%/*}/lib.sh"
source "$ROOT/setup/debian.sh"

release=${1:?usage: setup/containerd.sh RELEASE}
directory=$DEBIAN/containerd-$release

# runc needs the C library of its release, and its own loader finds it below the directory.
unpack_containerd() {
    local architecture libraries loader
    architecture=$(dpkg --print-architecture)
    libraries=$directory/usr/lib/$(dpkg-architecture --query DEB_HOST_MULTIARCH)
    foreign_release "$architecture" "$release"
    foreign_unpack "$architecture" "$directory" containerd runc libc6 libseccomp2 containernetworking-plugins
    loader=$(patchelf --print-interpreter "$directory/usr/sbin/runc")
    patchelf --set-interpreter "$directory/usr$loader" --set-rpath "$libraries" "$directory/usr/sbin/runc"
    touch "$directory/complete"
}

packages containerd dpkg-dev patchelf
if [[ ! -e $directory/complete ]]; then
    step "containerd-$release" "containerd from Debian's $release" "check the apt sources and the network, then try again" unpack_containerd
fi

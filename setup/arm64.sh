#!/usr/bin/env bash
# What builds for arm64: a cross compiler, and musl, which Debian has for arm64 only as a package of that architecture.
source "${BASH_SOURCE[0]%/*}/lib.sh"
source "$ROOT/setup/debian.sh"

unpack_musl() {
    foreign_release arm64 "$(machine_release)"
    foreign_unpack arm64 "$DEBIAN/musl-arm64" musl-dev
}

packages arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross
if [[ ! -e $DEBIAN/musl-arm64 ]]; then
    step musl-arm64 "musl for arm64" "check the apt sources and the network, then try again" unpack_musl
fi

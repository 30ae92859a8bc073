#!/usr/bin/env bash
# cross-cargo.sh COMMAND [ARGUMENT...]: cargo for Linux on arm64, with static binaries.
#
# The compiler is that of the BPF programs: it has the sources of Rust's library, which it builds for this
# target as it does for musl (cni-plugin/build.sh). Debian's cross compiler links.
source "${BASH_SOURCE[0]%/*}/lib.sh"

TRIPLE=aarch64-unknown-linux-gnu

(($#)) || die "usage: setup/cross-cargo.sh COMMAND [ARGUMENT...]"
RUSTC=$(rustc_with_sources)
# Debian's rustc is a stable one, and takes -Zbuild-std only so.
export RUSTC RUSTC_BOOTSTRAP=1 RUSTFLAGS="-C target-feature=+crt-static ${REMAP[*]}"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
command=$1
shift
cd "$ROOT"
exec "${CARGO:-cargo}" "$command" --target "$TRIPLE" -Zbuild-std=std,panic_unwind,test "$@"

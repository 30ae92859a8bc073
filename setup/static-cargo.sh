#!/usr/bin/env bash
# static-cargo.sh amd64|arm64 COMMAND [ARGUMENT...]: cargo for Linux of an architecture, with static binaries that do not
# depend on the directory of their sources.
#
# A target named explicitly keeps the flags away from build scripts and proc macros. For arm64 the compiler is that of the
# BPF programs: it has the sources of Rust's library, which it builds for this target as it does for musl
# (cni-plugin/build.sh). Debian's cross compiler links.
source "${BASH_SOURCE[0]%/*}/lib.sh"

usage() {
    die "usage: setup/static-cargo.sh amd64|arm64 COMMAND [ARGUMENT...]"
}

(($# >= 2)) || usage
architecture=$1 command=$2
shift 2
export RUSTFLAGS="-C target-feature=+crt-static ${REMAP[*]}"
case $architecture in
    amd64) target=(--target x86_64-unknown-linux-gnu) ;;
    arm64)
        target=(--target aarch64-unknown-linux-gnu -Zbuild-std=std,panic_unwind,test)
        RUSTC=$(rustc_with_sources)
        # Debian's rustc is a stable one, and takes -Zbuild-std only so.
        export RUSTC RUSTC_BOOTSTRAP=1
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
        ;;
    *) usage ;;
esac
cd "$ROOT"
exec "${CARGO:-cargo}" "$command" "${target[@]}" "$@"

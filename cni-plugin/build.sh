#!/usr/bin/env bash
# build.sh [amd64|arm64]: builds the plugin as it is copied onto hosts with any C library: static, with musl.
#
# glibc's start-up executes some 40 CPUID instructions. In a virtual machine each of them traps to the
# hypervisor, which takes half of the time to start and end the plugin.
#
# The compiler is that of the BPF programs: it has the sources of Rust's library, so that no library
# built for musl is needed.
source "${BASH_SOURCE[0]%/*}/../setup/lib.sh"

source "$ROOT/setup/debian.sh"

case ${1:-amd64} in
    amd64) MACHINE=x86_64 GCC=gcc MUSL=/usr/lib/x86_64-linux-musl ;;
    arm64) MACHINE=aarch64 GCC=aarch64-linux-gnu-gcc MUSL=$DEBIAN/musl-arm64/usr/lib/aarch64-linux-musl ;;
    *) die "usage: cni-plugin/build.sh [amd64|arm64]" ;;
esac
TRIPLE=$MACHINE-unknown-linux-musl
STUB=$ROOT/target/$TRIPLE/unwind

RUSTC=$(rustc_with_sources)

mkdir -p "$STUB"
"$GCC" -O2 -ffreestanding -c "$ROOT/cni-plugin/unwind.c" -o "$STUB/unwind.o"
ar rcs "$STUB/libunwind.a" "$STUB/unwind.o"

flags=(
    "${REMAP[@]}"
    -Ctarget-feature=+crt-static
    "-Clinker=$GCC"
    # Debian's musl in place of one that would come with the compiler.
    -Clink-self-contained=no
    "-Zpre-link-args=-nostartfiles $MUSL/rcrt1.o $MUSL/crti.o"
    "-Clink-arg=$MUSL/crtn.o"
    "-L$STUB"
    "-L$MUSL"
)
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' "${flags[@]}")
# Debian's rustc is a stable one, and takes what is unstable here only so.
export RUSTC RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%?} CARGO_PROFILE_RELEASE_PANIC=abort
cd "$ROOT"
"${CARGO:-cargo}" build --release --locked --target "$TRIPLE" -p sluice-cni \
    -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size

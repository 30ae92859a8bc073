#!/usr/bin/env bash
# The compiler and the linker of the BPF programs: a rustc that can build `core` for them, and
# bpf-linker built for the very LLVM of that rustc.
source "${BASH_SOURCE[0]%/*}/lib.sh"

BPF_LINKER=0.13.0

type -P cargo >/dev/null || die "no cargo: install Rust 1.95 or later with rustup"

[[ ${SLUICE_BPF_TOOLCHAIN:-debian} != debian ]] || packages rustc rustc-web rust-web-src
rustc=$(rustc_with_sources)

llvm=$("$rustc" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
[[ $llvm ]] || die "'$rustc -vV' names no LLVM version: reinstall that toolchain"
packages llvm "llvm-$llvm-dev" "libpolly-$llvm-dev" libzstd-dev zlib1g-dev

install_linker() {
    # Its build looks for llvm-config in three places, and would settle for another version's.
    local prefix=/usr/lib/llvm-$llvm
    export PATH=$prefix/bin:$PATH LLVM_PREFIX=$prefix "LLVM_SYS_${llvm}1_PREFIX=$prefix"
    # Its own profile has debug information, which nothing here reads.
    CARGO_PROFILE_RELEASE_DEBUG=false cargo install bpf-linker --version "$BPF_LINKER" --no-default-features --features "llvm-$llvm" \
        --locked --root "$TOOLS"
    "$TOOLS/bin/bpf-linker" --version
    echo "$built" >"$stamp"
}

built="bpf-linker $BPF_LINKER for LLVM $llvm"
stamp=$TOOLS/bpf-linker.built
if [[ ! -x $TOOLS/bin/bpf-linker || ! -e $stamp || $(<"$stamp") != "$built" ]]; then
    step bpf-linker "$built" "cargo could not build it; does bpf-linker $BPF_LINKER have the feature llvm-$llvm?" \
        install_linker
fi

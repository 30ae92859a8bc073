#!/usr/bin/env bash
# The compiler and the linker of the BPF programs: a rustc that can build `core` for them, and
# bpf-linker built for the very LLVM of that rustc.
#
# SLUICE_BPF_TOOLCHAIN=debian (default): Debian's rustc-web with its sources.
# SLUICE_BPF_TOOLCHAIN=nightly: a rustup nightly with the component rust-src.
source "${BASH_SOURCE[0]%/*}/lib.sh"

BPF_LINKER=0.13.0

type -P cargo >/dev/null || die "no cargo: install Rust 1.95 or later with rustup"

case ${SLUICE_BPF_TOOLCHAIN:-debian} in
    debian)
        packages rustc rustc-web rust-web-src
        rustc=(/usr/bin/rustc)
        ;;
    nightly)
        rustc=(rustc +nightly)
        core=$("${rustc[@]}" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/core ||
            die "no nightly toolchain: run 'rustup toolchain install nightly -c rust-src'"
        [[ -d $core ]] || die "nightly has no rust-src: run 'rustup component add rust-src --toolchain nightly'"
        ;;
    *) die "SLUICE_BPF_TOOLCHAIN is '$SLUICE_BPF_TOOLCHAIN': set it to 'debian' or 'nightly'" ;;
esac

llvm=$("${rustc[@]}" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
[[ $llvm ]] || die "'${rustc[*]} -vV' names no LLVM version: reinstall that toolchain"
packages llvm "llvm-$llvm-dev" "libpolly-$llvm-dev" libzstd-dev zlib1g-dev

install_linker() {
    # Its build looks for llvm-config in three places, and would settle for another version's.
    local prefix=/usr/lib/llvm-$llvm
    export PATH=$prefix/bin:$PATH LLVM_PREFIX=$prefix "LLVM_SYS_${llvm}1_PREFIX=$prefix"
    cargo install bpf-linker --version "$BPF_LINKER" --no-default-features --features "llvm-$llvm" \
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

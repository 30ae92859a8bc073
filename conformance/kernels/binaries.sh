#!/usr/bin/env bash
# binaries.sh debug|emulated ARCHITECTURE: builds what the virtual machines run, below target/kernels/bin-ARCHITECTURE.
#
# debug: what `.ci/tests` builds, for a quick run on this machine's architecture. emulated: with some optimisation, as an
# emulated processor is slow. The virtual machines have the C library of this machine's release.
source "${BASH_SOURCE[0]%/*}/../../setup/lib.sh"

profile=${1:-} architecture=${2:-}
out=$ROOT/target/kernels/bin-$architecture
cd "$ROOT"

# lay NAME FILE: without symbols.
lay() {
    mkdir -p "$out"
    "${STRIP:-strip}" -o "$out/$1" "$2"
}

# The test binary of the daemon's library among cargo's messages.
test_binary() {
    jq -r 'select(.executable and .profile.test and .target.name == "sluiced" and (.target.kind | index("lib"))) | .executable'
}

build() {
    "$@" build --profile emulated -p workspace-hack -p sluiced -p sluice-cni -p sluice-conformance
    lay tests "$("$@" test --profile emulated -p sluiced --lib --no-run --message-format=json | test_binary)"
    local program
    for program in sluiced sluice-cni sluice-conformance; do lay "$program" "$built/$program"; done
}

case $profile-$architecture in
    debug-amd64)
        lay tests "$(cargo test --workspace --features sluiced/failpoints,sluice-install/failpoints --no-run --message-format=json |
            test_binary)"
        for program in sluiced sluice-cni sluice-conformance; do lay "$program" "target/debug/$program"; done
        cp "$TOOLS/bin/cnitool" "$out"
        ;;
    emulated-amd64)
        built=target/emulated build cargo
        cp "$TOOLS/bin/cnitool" "$out"
        ;;
    emulated-arm64)
        STRIP=aarch64-linux-gnu-strip built=target/aarch64-unknown-linux-gnu/emulated build setup/cross-cargo.sh
        cp "$TOOLS/arm64/bin/cnitool" "$out"
        ;;
    *) die "usage: conformance/kernels/binaries.sh debug|emulated amd64|arm64" ;;
esac

#!/usr/bin/env bash
# binaries.sh debug|release ARCHITECTURE: builds what the virtual machines run, below target/kernels/bin-ARCHITECTURE.
#
# debug: what `.ci/tests` builds, for a quick run on this machine's architecture; the virtual machines have the C library
# of this machine's release. release: the daemon and the plugin of a release, and static tests of the same profile.
source "${BASH_SOURCE[0]%/*}/../../setup/lib.sh"

profile=${1:-} architecture=${2:-}
out=$ROOT/target/kernels/bin-$architecture
cd "$ROOT"

# lay NAME FILE: without symbols.
lay() {
    mkdir -p "$out"
    "${STRIP:-strip}" -o "$out/$1" "$2"
}

# The socket load balancer of the suite, which is built with the daemon.
lay_balancer() {
    [[ ! ${SLUICE_BPF_OBJECT:-} ]] || die "unset SLUICE_BPF_OBJECT: some rows need the load balancer, which is built with the programs"
    cp target/bpf/bpfel-unknown-none/release/balancer "$out/balancer.o"
}

# The test binary of the daemon's library among cargo's messages.
test_binary() {
    jq -r 'select(.executable and .profile.test and .target.name == "sluiced" and (.target.kind | index("lib"))) | .executable'
}

# release MACHINE: as `make image` builds them. Only what tests them has the features of the tests.
release() {
    local cargo=(setup/static-cargo.sh "$architecture") gnu=target/$1-unknown-linux-gnu/release
    "${cargo[@]}" build --release --locked -p sluiced -p sluice-install -p kubectl-sluice
    lay sluiced "$gnu/sluiced"
    cni-plugin/build.sh "$architecture"
    lay sluice-cni "target/$1-unknown-linux-musl/release/sluice-cni"
    "${cargo[@]}" build --release --locked -p workspace-hack -p sluice-conformance
    lay sluice-conformance "$gnu/sluice-conformance"
    lay tests "$("${cargo[@]}" test --release --locked -p sluiced --lib --no-run --message-format=json | test_binary)"
}

case $profile-$architecture in
    debug-amd64)
        lay tests "$(cargo test --workspace --features sluiced/failpoints,sluice-install/failpoints --no-run --message-format=json |
            test_binary)"
        for program in sluiced sluice-cni sluice-conformance; do lay "$program" "target/debug/$program"; done
        cp "$TOOLS/bin/"{cnitool,envoy} "$out"
        lay_balancer
        ;;
    release-amd64)
        release x86_64
        cp "$TOOLS/bin/"{cnitool,envoy} "$out"
        lay_balancer
        ;;
    release-arm64)
        STRIP=aarch64-linux-gnu-strip release aarch64
        cp "$TOOLS/arm64/bin/cnitool" "$out"
        ;;
    *) die "usage: conformance/kernels/binaries.sh debug|release amd64|arm64" ;;
esac

#!/usr/bin/env bash
# cargo-fuzz, and the nightly compiler that instruments for it.
source "${BASH_SOURCE[0]%/*}/lib.sh"

CARGO_FUZZ=0.13.2

install_nightly() {
    rustup toolchain install nightly --profile minimal
}

install_fuzz() {
    cargo install cargo-fuzz --version "$CARGO_FUZZ" --locked --root "$TOOLS"
}

if ! rustup run nightly rustc --version >/dev/null 2>&1; then
    step nightly "a nightly compiler" "rustup could not fetch it; check the network, then try again" install_nightly
fi
if [[ ! -x $TOOLS/bin/cargo-fuzz ]]; then
    step cargo-fuzz "cargo-fuzz $CARGO_FUZZ" "cargo could not build it; check the network, then try again" install_fuzz
fi

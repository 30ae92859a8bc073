#!/usr/bin/env bash
# cargo-fuzz, and the nightly compiler that instruments for it.
source "${BASH_SOURCE[0]%/*}/lib.sh"

install_nightly() {
    rustup toolchain install nightly --profile minimal
}

if ! rustup run nightly rustc --version >/dev/null 2>&1; then
    step nightly "a nightly compiler" "rustup could not fetch it; check the network, then try again" install_nightly
fi
cargo_tool cargo-fuzz 0.13.2 'half a minute'

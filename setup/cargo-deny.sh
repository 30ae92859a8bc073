#!/usr/bin/env bash
# cargo-deny, for the lints only: licences, duplicate crates and where crates come from.
source "${BASH_SOURCE[0]%/*}/lib.sh"

CARGO_DENY=0.20.2

install_deny() {
    cargo install cargo-deny --version "$CARGO_DENY" --locked --root "$TOOLS"
}

if [[ ! -x $TOOLS/bin/cargo-deny ]]; then
    step cargo-deny "cargo-deny $CARGO_DENY, 2 to 3 minutes" "cargo could not build it; check the network, then try again" install_deny
fi

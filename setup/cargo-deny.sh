#!/usr/bin/env bash
# cargo-deny, for the lints only: licences, duplicate crates and where crates come from.
source "${BASH_SOURCE[0]%/*}/lib.sh"

cargo_tool cargo-deny 0.20.2 'a minute'

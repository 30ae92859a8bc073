#!/usr/bin/env bash
# cargo-sbom, for releases only: the software bill of materials.
source "${BASH_SOURCE[0]%/*}/lib.sh"

CARGO_SBOM=0.10.0

install_sbom() {
    cargo install cargo-sbom --version "$CARGO_SBOM" --locked --root "$TOOLS"
}

if [[ ! -x $TOOLS/bin/cargo-sbom ]]; then
    step cargo-sbom "cargo-sbom $CARGO_SBOM, a minute" "cargo could not build it; check the network, then try again" install_sbom
fi

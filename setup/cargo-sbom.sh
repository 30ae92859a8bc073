#!/usr/bin/env bash
# cargo-sbom, for releases only: the software bill of materials.
source "${BASH_SOURCE[0]%/*}/lib.sh"

cargo_tool cargo-sbom 0.10.0 'a minute'

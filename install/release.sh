#!/usr/bin/env bash
# release.sh IMAGE [OUT]: lays out a release: binaries of each architecture, image, chart, manifest, SBOM, licences of
# third parties, checksums.
#
# The same commit gives the same bytes: names are sorted, times and owners fixed, and nothing names a directory.
source "${BASH_SOURCE[0]%/*}/../setup/lib.sh"

image=${1:?usage: install/release.sh IMAGE [OUT]}
cd "$ROOT"
VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
out=${2:-target/release-$VERSION}
LICENCES=(LICENSE-APACHE LICENSE-GPL-2.0 LICENSE-MIT)

# archive OUT DIRECTORY NAME: NAME in DIRECTORY.
archive() {
    tar --directory "$2" --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go-w "$3" |
        gzip --no-name --best >"$1"
}

rm -rf "$out"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

binaries() {
    local architecture=$1 machine=$2 name=sluice-$VERSION-linux-$1
    install -D -t "$work/$name" "target/$machine-unknown-linux-gnu/release"/{sluiced,sluice-install,kubectl-sluice} \
        "target/$machine-unknown-linux-musl/release/sluice-cni"
    install -m 644 -t "$work/$name" "${LICENCES[@]}" "$work/THIRD-PARTY.txt"
    archive "$out/$name.tar.gz" "$work" "$name"
}

install/third-party.py >"$work/THIRD-PARTY.txt"
binaries amd64 x86_64
binaries arm64 aarch64
cp "$image" "$out/sluice-$VERSION-image.tar"
# As `helm package` lays it out.
cp -r install/manifests/chart "$work/sluice"
archive "$out/sluice-chart-$VERSION.tgz" "$work" sluice
cp install/manifests/sluice.yaml "$out/sluice-$VERSION.yaml"
# SPDX requires the time and a unique name: both are fixed, and the paths of this machine are left out.
cargo sbom --output-format spdx_json_2_3 | jq --sort-keys --arg name "sluice-$VERSION" '
    .creationInfo.created = "1970-01-01T00:00:00Z" | .documentNamespace = "urn:" + $name | .name = $name
    | del(.files) | .relationships |= (map(select((.spdxElementId + .relatedSpdxElement) | contains("File-") | not)) | sort)
    | .packages |= sort_by(.SPDXID)
' >"$out/sluice-$VERSION.spdx.json"
cp "$work/THIRD-PARTY.txt" "$out/sluice-$VERSION-third-party.txt"
(cd "$out" && sha256sum -- * >SHA256SUMS)
echo "$out:"
cat "$out/SHA256SUMS"

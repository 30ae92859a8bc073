#!/usr/bin/env bash
# image.sh OUT NAME:TAG DIRECTORY COMMAND [ARGUMENT...]: makes an image of one layer for each architecture.
#
# DIRECTORY has a root file system for each, named as OCI names architectures: amd64, arm64. A directory without these
# is one for this machine's own architecture.
#
# Needs no container engine. OUT is a tar with an OCI index, which `ctr images import`, `podman load`, `docker load` and
# skopeo read. The same directory gives the same bytes: names are sorted, times and owners are fixed.
set -euo pipefail

(($# >= 4)) || { echo "usage: ${0##*/} OUT NAME:TAG DIRECTORY COMMAND [ARGUMENT...]" >&2; exit 64; }
out=$1 name=$2 directory=$3
shift 3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/blobs/sha256
mkdir -p "$blobs"

# archive DIRECTORY FILE...: to standard output.
archive() {
    tar --directory "$1" --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
        --mode=go-w "${@:2}"
}

# blob MEDIATYPE: keeps standard input under its digest; prints the descriptor that points to it.
blob() {
    local file=$work/blob digest
    cat >"$file"
    digest=$(sha256sum "$file" | cut -d ' ' -f 1)
    jq -nc --arg type "$1" --arg digest "sha256:$digest" --argjson size "$(stat -c %s "$file")" \
        '{mediaType: $type, digest: $digest, size: $size}'
    mv "$file" "$blobs/$digest"
}

# manifest ARCHITECTURE ROOT COMMAND [ARGUMENT...]: one image. Prints its descriptor, with the platform.
manifest() {
    local architecture=$1 root=$2 layer config
    shift 2
    # Uncompressed, so the layer's digest is also the digest of its content ("diff id").
    layer=$(archive "$root" . | blob $type.layer.v1.tar)
    config=$(jq -nc --arg architecture "$architecture" --argjson layer "$layer" '{
        architecture: $architecture, os: "linux", created: "1970-01-01T00:00:00Z",
        config: {Entrypoint: $ARGS.positional, Env: ["PATH=/bin"]},
        rootfs: {type: "layers", diff_ids: [$layer.digest]}
    }' --args "$@" | blob $type.config.v1+json)
    jq -nc --arg type $type.manifest.v1+json --argjson config "$config" --argjson layer "$layer" \
        '{schemaVersion: 2, mediaType: $type, config: $config, layers: [$layer]}' | blob $type.manifest.v1+json |
        jq -c --arg architecture "$architecture" '. + {platform: {architecture: $architecture, os: "linux"}}'
}

type=application/vnd.oci.image
manifests=$(
    for architecture in amd64 arm64; do
        [[ ! -d $directory/$architecture ]] || manifest "$architecture" "$directory/$architecture" "$@"
    done
)
[[ $manifests ]] || manifests=$(manifest "$(dpkg --print-architecture)" "$directory" "$@")
index=$(jq -nc --arg type $type.index.v1+json --argjson manifests "$(jq -sc . <<<"$manifests")" \
    '{schemaVersion: 2, mediaType: $type, manifests: $manifests}' | blob $type.index.v1+json)

echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
jq -nc --arg type $type.index.v1+json --argjson index "$index" --arg name "$name" '{
    schemaVersion: 2, mediaType: $type, manifests: [$index + {annotations: {
        "io.containerd.image.name": $name, "org.opencontainers.image.ref.name": ($name | split(":") | last)
    }}]
}' >"$work/index.json"
archive "$work" oci-layout index.json blobs >"$out.part"
mv "$out.part" "$out"

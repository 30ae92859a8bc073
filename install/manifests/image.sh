#!/usr/bin/env bash
# image.sh OUT NAME:TAG DIRECTORY COMMAND [ARGUMENT...]: makes an image of one layer.
#
# Needs no container engine. OUT is a tar that `ctr images import`, `podman load`, `docker load`
# and skopeo read. The same directory gives the same bytes: names are sorted, times and owners
# are fixed.
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

type=application/vnd.oci.image
# Uncompressed, so the layer's digest is also the digest of its content ("diff id").
layer=$(archive "$directory" . | blob $type.layer.v1.tar)
config=$(jq -nc --argjson layer "$layer" '{
    architecture: "amd64", os: "linux", created: "1970-01-01T00:00:00Z",
    config: {Entrypoint: $ARGS.positional, Env: ["PATH=/bin"]},
    rootfs: {type: "layers", diff_ids: [$layer.digest]}
}' --args "$@" | blob $type.config.v1+json)
manifest=$(jq -nc --arg type $type.manifest.v1+json --argjson config "$config" --argjson layer "$layer" \
    '{schemaVersion: 2, mediaType: $type, config: $config, layers: [$layer]}' | blob $type.manifest.v1+json)

echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
jq -nc --argjson manifest "$manifest" --arg name "$name" '{schemaVersion: 2, manifests: [$manifest + {annotations: {
    "io.containerd.image.name": $name, "org.opencontainers.image.ref.name": ($name | split(":") | last)
}}]}' >"$work/index.json"
# For engines that read only Docker's archives.
jq -nc --argjson config "$config" --argjson layer "$layer" --arg name "$name" '
    def path: "blobs/" + sub(":"; "/");
    [{Config: ($config.digest | path), RepoTags: [$name], Layers: [$layer.digest | path]}]' >"$work/manifest.json"

archive "$work" oci-layout index.json manifest.json blobs >"$out.part"
mv "$out.part" "$out"

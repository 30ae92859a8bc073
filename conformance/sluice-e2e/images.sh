#!/usr/bin/env bash
# images.sh BINARIES ENVOY OUT: makes the images that the test's Pods run, beside Sluice's own.
#
# `pod` has Envoy, iptables and the application; `pause` holds a Pod's namespaces.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/../.."

(($# == 3)) || { echo "usage: ${0##*/} BINARIES ENVOY OUT" >&2; exit 64; }
binaries=$1 envoy=$2 out=$3
XTABLES=/usr/lib/x86_64-linux-gnu/xtables

# with_libraries ROOT FILE...: puts the shared libraries of files where the loader looks for them.
with_libraries() {
    local root=$1 library
    shift
    while read -r library; do
        install -D "$(realpath "$library")" "$root$library"
    done < <(ldd "$@" 2>/dev/null | grep -o '/[^ :]*\.so[^ :]* ' | sort -u)
}

rm -rf "$out/pod" "$out/pause"
mkdir -p "$out/pod/tmp"
install -D "$binaries/sluice-e2e" "$out/pod/bin/sluice-e2e"
install -D "$(realpath "$envoy")" "$out/pod/bin/envoy"
iptables=$(realpath "$(type -P iptables-nft-restore)")
install -D "$iptables" "$out/pod/bin/iptables-restore"
for extension in tcp udp owner standard REDIRECT; do
    install -D -t "$out/pod$XTABLES" "$XTABLES/libxt_$extension.so"
done
with_libraries "$out/pod" "$envoy" "$iptables" "$out/pod$XTABLES"/*.so
install/manifests/image.sh "$out/pod.tar" sluice.test/pod:1 "$out/pod" /bin/sluice-e2e

install -D /bin/busybox "$out/pause/bin/busybox"
install/manifests/image.sh "$out/pause.tar" sluice.test/pause:1 "$out/pause" /bin/busybox sleep 2147483647

#!/usr/bin/env bash
# Prometheus and promtool, for the tests of metrics and alerts. Debian's package is unpacked and not installed: its
# installation starts a server.
source "${BASH_SOURCE[0]%/*}/lib.sh"

unpack_prometheus() {
    local work=$TOOLS/prometheus.unpacked
    rm -rf "$work"
    mkdir "$work"
    cd "$work"
    # An unreachable third-party source must not stop us: the download below is what counts.
    apt-get update || true
    # apt's unprivileged user cannot write to the directory.
    apt-get -o APT::Sandbox::User=root download prometheus
    dpkg-deb --extract prometheus_*.deb .
    install -t "$TOOLS/bin" usr/bin/prometheus usr/bin/promtool
    rm -rf "$work"
}

if [[ ! -x $TOOLS/bin/prometheus || ! -x $TOOLS/bin/promtool ]]; then
    type -P apt-get >/dev/null || die "no apt-get: put prometheus and promtool into ${TOOLS#"$ROOT"/}/bin by hand"
    step prometheus "Prometheus from Debian's package" \
        "check the apt sources and the network, then try again" unpack_prometheus
fi

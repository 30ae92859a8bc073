#!/usr/bin/env bash
# cnitool.sh [ARCHITECTURE]: cnitool, the reference CNI runtime, from Debian's source package: no binary package has it.
source "${BASH_SOURCE[0]%/*}/lib.sh"

architecture=${1:-}
bin=$TOOLS${architecture:+/$architecture}/bin

install_cnitool() {
    local work=$TOOLS/cnitool module=src/github.com/containernetworking/cni
    rm -rf "$work"
    mkdir -p "$work/$module" "$bin"
    download_source "$work" golang-github-appc-cni
    tar -xf golang-github-appc-cni_*.orig.tar.* -C "$module" --strip-components=1
    # /usr/share/gocode has the libraries it is built from; what was unpacked here wins over it.
    cd "$module/cnitool"
    GO111MODULE=off GOFLAGS='' GOPATH=$work:/usr/share/gocode GOCACHE=$work/cache GOARCH=$architecture CGO_ENABLED=0 \
        go build -o "$bin/cnitool" .
    rm -rf "$work"
}

if [[ ! -x $bin/cnitool ]]; then
    step "cnitool${architecture:+-$architecture}" "cnitool from Debian's source package" "check that the apt sources also offer sources (deb-src)" \
        install_cnitool
fi

#!/usr/bin/env bash
# A Kubernetes node and its control plane for the end-to-end test. etcd and the container runtime
# are Debian packages; of Kubernetes Debian has only the client as a package, but bookworm the sources
# of everything (those of later releases hold kubectl alone). Building them takes about five minutes
# on two cores, so the binaries are kept outside the repository, where a fresh clone finds them: in
# $SLUICE_CACHE, or /var/cache/sluice/kubernetes-VERSION/bin.
source "${BASH_SOURCE[0]%/*}/lib.sh"

KUBERNETES=1.20.2
COMMANDS=(kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl)
cache=${SLUICE_CACHE:-/var/cache/sluice}/kubernetes-$KUBERNETES

packages kubernetes etcd-server containerd runc openssl busybox-static golang-go

# The one generated file that the sources lack.
generate_openapi() {
    local work=$1 tagged
    go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    tagged=$(grep -rl --include='*.go' '+k8s:openapi-gen=' pkg vendor/k8s.io/*/ | xargs -n1 dirname |
        grep -vE 'vendor/k8s.io/(code-generator|sample-apiserver)' | LC_ALL=C sort -u | sed 's,^,k8s.io/kubernetes/,')
    "$work/openapi-gen" --logtostderr --input-dirs "${tagged//$'\n'/,}" --output-base "$work/src" \
        --output-package k8s.io/kubernetes/pkg/generated/openapi --output-file-base zz_generated.openapi \
        --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt --report-filename "$work/report"
}

build_kubernetes() {
    local work=$cache/build package=k8s.io/kubernetes flags=-s\ -w version command
    rm -rf "$work"
    mkdir -p "$work/src/$package" "$work/bin"
    download_source "$work" kubernetes
    tar -xf kubernetes_*.orig.tar.* -C "src/$package" --strip-components=1
    cd "src/$package"
    export GO111MODULE=off GOFLAGS='' GOPATH=$work GOCACHE=$work/cache CGO_ENABLED=0
    generate_openapi "$work"
    for version in component-base/version client-go/pkg/version; do
        version=$package/vendor/k8s.io/$version
        flags+=" -X $version.gitVersion=v$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=20"
    done
    for command in "${COMMANDS[@]}"; do
        go build -trimpath -ldflags "$flags" -o "$work/bin/$command" "./cmd/$command"
    done
    # All of them or none: the directory appears at once.
    rm -rf "$cache/bin"
    mv "$work/bin" "$cache/bin"
    rm -rf "$work"
}

if [[ ! -d $cache/bin ]]; then
    step kubernetes "Kubernetes $KUBERNETES from Debian's source package, about five minutes" \
        "see the log; was the disk full?" build_kubernetes
fi
ln -sfn "$cache/bin" "$TOOLS/kubernetes"

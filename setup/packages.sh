#!/usr/bin/env bash
# What the build, the demo and the tests need from Debian, beside the BPF toolchain.
source "${BASH_SOURCE[0]%/*}/lib.sh"

build=(gcc libc6-dev musl-dev curl python3-venv protobuf-compiler)
lab=(iptables iproute2 util-linux libcap2-bin containernetworking-plugins)
runtimes=(busybox-static conmon containerd jq podman runc)
cnitool=(golang-go golang-github-appc-cni-dev)
kernels=(qemu-system-x86 qemu-system-arm cpio jq kmod xz-utils)
bench=(conntrack wrk time linux-perf)

case ${1:-all} in
    all) packages all "${build[@]}" "${lab[@]}" "${runtimes[@]}" "${cnitool[@]}" ;;
    demo) packages demo "${build[@]}" "${lab[@]}" "${cnitool[@]}" ;;
    kernels) packages kernels "${kernels[@]}" ;;
    bench) packages bench "${bench[@]}" ;;
    *) die "usage: setup/packages.sh [all|demo|kernels|bench]" ;;
esac

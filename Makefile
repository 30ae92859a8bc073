# Everything a person or a CI runs. Each target does all of its own set-up.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(CURDIR)/target
HOST := x86_64-unknown-linux-gnu
ARM64 := aarch64-unknown-linux-gnu

# rustup's cargo comes first: Debian's rustc, installed for the BPF programs, must not shadow it.
CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(CARGO_HOME)/bin:$(TARGET)/tools/bin:$(PATH)

# Where the conformance suite and the tests find the binaries under test and their companions.
export SLUICE_CNI := $(TARGET)/x86_64-unknown-linux-musl/release/sluice-cni
export SLUICED := $(TARGET)/release/sluiced
export ENVOY := $(TARGET)/tools/bin/envoy
export CNITOOL := $(TARGET)/tools/bin/cnitool
export CNI_PLUGINS := /usr/lib/cni
export IMAGES := $(TARGET)/image
# The image's name.
IMAGE ?= sluice:0.1.0
# Its architectures.
ARCHITECTURES ?= amd64 arm64
# What is built for it, beside the plugin, and for a release.
SHIPPED := -p sluiced -p sluice-install -p kubectl-sluice

.PHONY: help root setup setup-demo build demo conformance proxies chaos bench scale test faults safety crowd test-kernels test-kernels-quick fuzz \
	image-root image-amd64 image-arm64 image manifests e2e release test-release lint clean distclean

help:
	@echo 'Sluice: service-mesh traffic redirection with eBPF instead of iptables'
	@echo
	@echo 'Try'
	@echo '  make demo          meshed Pods with real Envoys; every row is checked'
	@echo '  make test          every test, with real programs in real namespaces'
	@echo
	@echo 'Develop (docs/development.md also explains how to run one test)'
	@echo '  make build         release binaries below target/'
	@echo '  make lint          formatting, clippy, rustdoc, links of the docs, licences'
	@echo '  make fuzz          random input for every parser; SECONDS_EACH=60 for longer'
	@echo '  make faults        faults planted into the sources one at a time; the suite must find each'
	@echo '  make safety        200,000 random accelerated connections, every byte compared'
	@echo '  make crowd         5,000 namespaces of unprivileged users beside a Pod; NAMESPACES=N'
	@echo '  make test-kernels  twelve kernels of two architectures in QEMU; ROWS='"'6.1 6.12-arm64'"' chooses some'
	@echo '  make test-kernels-quick  load, attach and test some programs on Linux 6.1 only'
	@echo '  make setup         only the tools, which other targets install by themselves'
	@echo '  make clean         remove what was built; distclean also removes the tools'
	@echo
	@echo 'Compare and measure'
	@echo '  make conformance   every case on none, iptables and Sluice; random connections compared;'
	@echo "                     SEEDS='1 2' and CASES=N choose them"
	@echo '  make proxies       the rows of a mesh with its real proxy: ZTUNNEL=FILE, LINKERD2_PROXY=FILE;'
	@echo '                     RATES=1 also measures, with wrk'
	@echo '  make chaos         restart and kill the daemon under load; likewise ztunnel'
	@echo "  make bench         speed against iptables, time of ADD, cost over size; BENCH=--quick, BENCH='--part growth'"
	@echo '  make scale         ADD, memory and takeover with 500 Pods, audit of 50,000 sockets'
	@echo
	@echo 'Ship'
	@echo '  make image         the container image, below target/image/;'
	@echo '                     IMAGE=REGISTRY/sluice:0.1.0 names it, ARCHITECTURES=amd64 leaves arm64 out'
	@echo '  make release       everything that a release has, below target/release-VERSION/'
	@echo '  make test-release  the same twice, in two directories: equal byte for byte'
	@echo '  make manifests     the plain manifest and the table of values, from the chart'
	@echo '  make e2e           install, upgrade and remove Sluice on a real Kubernetes node;'
	@echo '                     KUBERNETES=DIR, KUBELET=FILE: also on programs of a newer release'
	@echo
	@echo 'Variables: SLUICE_BPF_TOOLCHAIN=debian|nightly, SLUICE_BPF_OBJECT=FILE (docs/development.md).'
	@echo 'demo, conformance, chaos, scale, test, faults, crowd, test-kernels, e2e and a first setup need root, on Debian with rustup.'

root:
	@: $(if $(filter 0,$(shell id -u)),,$(error sluice needs root: it loads BPF programs and makes network \
	namespaces. Try: sudo -E env PATH="$$PATH" make $(MAKECMDGOALS)))

setup: setup-demo
	@setup/packages.sh
	@setup/manifests.sh

# The files of it that the demo needs.
setup-demo:
	@setup/packages.sh demo
	@setup/bpf.sh
	@setup/cnitool.sh
	@setup/envoy.sh

# Programs that are copied onto hosts with any C library are static.
build: setup
	@$(CARGO) build --release
	@setup/static-cargo.sh amd64 build --release -p sluice-install -p kubectl-sluice
	@cni-plugin/build.sh

# What is only tried is built once, in the profile and with the features of the tests.
demo: export SLUICED := $(TARGET)/debug/sluiced
demo: export SLUICE_CNI := $(TARGET)/debug/sluice-cni
demo: root setup-demo
	@$(CARGO) build -p workspace-hack -p sluiced -p sluice-cni -p sluice-conformance
	@$(TARGET)/debug/sluice-conformance demo

# SEEDS='1 2' repeats random connections; CASES=N tries so many for each.
conformance: root build
	@$(TARGET)/release/sluice-conformance run $(addprefix --seed ,$(SEEDS)) $(addprefix --cases ,$(CASES))
	@setup/containerd.sh sid
	@$(TARGET)/release/sluice-e2e runtimes --next $(TARGET)/debian/containerd-sid

# No registry has these proxies: without the name of a binary its rows are skipped.
proxies: export ZTUNNEL := $(ZTUNNEL)
proxies: export LINKERD2_PROXY := $(LINKERD2_PROXY)
proxies: export NETWORK_VALIDATOR := $(NETWORK_VALIDATOR)
proxies: root setup
	@$(if $(RATES),setup/packages.sh bench)
	@$(CARGO) test $(if $(RATES),--release) -p sluiced --test daemon -- ztunnel::real network_validator --nocapture \
		$(if $(RATES),--test-threads 1 --include-ignored)

chaos: root build
	@$(TARGET)/release/sluice-conformance chaos
	@$(CARGO) test -p sluiced --test daemon hundred_pods -- --include-ignored

bench: root build
	@setup/packages.sh bench
	@$(TARGET)/release/sluice-bench $(BENCH)

scale: root build
	@$(TARGET)/release/sluice-conformance scale
	@$(CARGO) test --release -p sluiced --test daemon -- --ignored --nocapture --test-threads 1 audit_judges daemon_with

# The plugin is the one that is shipped: static, with musl.
test: export SLUICED := $(TARGET)/debug/sluiced
test: root setup
	@setup/prometheus.sh
	@cni-plugin/build.sh
	@.ci/tests

# Faults are planted into a copy of the sources, one at a time; the parity suite must find each.
faults: export SLUICED := $(TARGET)/debug/sluiced
faults: root setup
	@cni-plugin/build.sh
	@$(CARGO) build -p workspace-hack -p sluiced -p sluice-conformance
	@$(CARGO) test -p sluice-conformance --test mutations -- --include-ignored --nocapture

# 200,000 random connections through accelerated paths, every byte compared.
safety: root setup
	@$(CARGO) test -p sluiced --lib fuzz_accel -- --include-ignored --nocapture

# So many namespaces with the proxy's listeners and a pending Pod's address: status, ADD and log keep
# their limits.
NAMESPACES ?= 5000
crowd: root setup
	@SLUICE_NAMESPACES=$(NAMESPACES) $(CARGO) test --release -p sluiced --test daemon -- --include-ignored --nocapture \
		five_thousand_namespaces

test-kernels: root setup
	@setup/packages.sh kernels
	@setup/arm64.sh
	@setup/cnitool.sh arm64
	@conformance/kernels/binaries.sh release amd64
	@conformance/kernels/binaries.sh release arm64
	@conformance/kernels/run.sh $(ROWS)

# With the binaries of `make test`.
test-kernels-quick: root setup
	@setup/packages.sh kernels
	@conformance/kernels/binaries.sh debug amd64
	@conformance/kernels/run.sh quick

SECONDS_EACH ?= 5
fuzz: setup
	@setup/fuzz.sh
	@fuzz/run.sh $(SECONDS_EACH)

# The container image: static binaries and nothing else.
image-amd64: setup
	@setup/static-cargo.sh amd64 build --release --locked $(SHIPPED)
	@cni-plugin/build.sh
	@install/manifests/tree.sh $(IMAGES)/sluice/amd64 $(TARGET)/$(HOST)/release/{sluiced,sluice-install} $(SLUICE_CNI)

image-arm64: setup
	@setup/arm64.sh
	@setup/static-cargo.sh arm64 build --release --locked $(SHIPPED)
	@cni-plugin/build.sh arm64
	@install/manifests/tree.sh $(IMAGES)/sluice/arm64 $(TARGET)/$(ARM64)/release/{sluiced,sluice-install} \
		$(TARGET)/aarch64-unknown-linux-musl/release/sluice-cni

image-root:
	@rm -rf $(IMAGES)/sluice
	@$(MAKE) --no-print-directory $(addprefix image-,$(ARCHITECTURES))

image: image-root
	@install/manifests/image.sh $(IMAGES)/sluice.tar $(IMAGE) $(IMAGES)/sluice /bin/sluiced
	@echo '$(IMAGES)/sluice.tar holds $(IMAGE)'

manifests:
	@setup/manifests.sh
	@$(TARGET)/tools/manifests/bin/python install/manifests/render.py >install/manifests/sluice.yaml
	@$(TARGET)/tools/manifests/bin/python install/manifests/values.py

release: image
	@setup/cargo-sbom.sh
	@install/release.sh $(IMAGES)/sluice.tar

# A second build, elsewhere, must give the same bytes. It takes as long as the first.
test-release: release
	@install/test-release.sh

# Debian has the sources of Kubernetes 1.20 alone: programs of a newer release are named with KUBERNETES=DIR.
e2e: IMAGE := sluice.test/sluice:latest
e2e: ARCHITECTURES := amd64
e2e: E2E = $(TARGET)/$(HOST)/release/sluice-e2e kubernetes
e2e: NEXT = --kubernetes $(abspath $(KUBERNETES)) --logs $(TARGET)/e2e-next $(addprefix --older-kubelet ,$(abspath $(KUBELET))) \
	--containerd $(TARGET)/debian/containerd-trixie --next-containerd $(TARGET)/debian/containerd-sid \
	--cni-plugins $(TARGET)/debian/containerd-sid/usr/lib/cni
e2e: root image
	@setup/kubernetes.sh
	@setup/containerd.sh trixie
	@$(if $(KUBERNETES),setup/containerd.sh sid)
	@setup/static-cargo.sh amd64 build --release -p sluice-e2e -p kubectl-sluice
	@conformance/sluice-e2e/images.sh $(TARGET)/$(HOST)/release $(ENVOY) $(IMAGES)
	@$(E2E) --kubernetes $(TARGET)/tools/kubernetes
	@$(if $(KUBERNETES),$(E2E) $(NEXT))

lint: setup
	@setup/cargo-deny.sh
	@.ci/lint

clean:
	@find $(TARGET) -mindepth 1 -maxdepth 1 ! -name tools ! -name setup ! -name kernels ! -name debian -exec rm -rf {} +

distclean:
	@rm -rf $(TARGET)

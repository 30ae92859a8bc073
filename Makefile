# Everything a person or a CI runs. Each target does all of its own set-up.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(CURDIR)/target
HOST := x86_64-unknown-linux-gnu

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

.PHONY: help root setup setup-demo build demo conformance chaos bench scale test safety test-kernels fuzz image-root image manifests e2e lint \
	clean distclean

help:
	@echo 'Sluice: service-mesh traffic redirection with eBPF instead of iptables'
	@echo
	@echo 'Try'
	@echo '  make demo          two meshed Pods with real Envoys; every row is checked'
	@echo '  make test          every test, with real programs in real namespaces'
	@echo
	@echo 'Develop (docs/development.md also explains how to run one test)'
	@echo '  make build         release binaries below target/'
	@echo '  make lint          formatting, clippy, rustdoc, links of the docs, licences'
	@echo '  make fuzz          random input for every parser; SECONDS_EACH=60 for longer'
	@echo '  make safety        200,000 random accelerated connections, every byte compared'
	@echo '  make test-kernels  load, attach and test the programs on an older kernel, in QEMU'
	@echo '  make setup         only the tools, which other targets install by themselves'
	@echo '  make clean         remove what was built; distclean also removes the tools'
	@echo
	@echo 'Compare and measure'
	@echo '  make conformance   every case on none, iptables and Sluice; random connections compared;'
	@echo "                     SEEDS='1 2' and CASES=N choose them"
	@echo '  make chaos         restart and kill the daemon under load'
	@echo "  make bench         speed against iptables, time of ADD; BENCH=--quick, BENCH='--part control'"
	@echo '  make scale         ADD, memory and takeover with 500 Pods on the node'
	@echo
	@echo 'Ship'
	@echo '  make image         the container image, below target/image/; IMAGE=REGISTRY/sluice:0.1.0 names it'
	@echo '  make manifests     the plain manifest and the table of values, from the chart'
	@echo '  make e2e           install, upgrade and remove Sluice on a real Kubernetes node'
	@echo
	@echo 'Variables: SLUICE_BPF_TOOLCHAIN=debian|nightly, SLUICE_BPF_OBJECT=FILE (docs/development.md).'
	@echo 'demo, conformance, chaos, scale, test, test-kernels, e2e and a first setup need root, on Debian with rustup.'

root:
	@: $(if $(filter 0,$(shell id -u)),,$(error sluice needs root: it loads BPF programs and makes network \
	namespaces. Try: sudo -E env PATH="$$PATH" make $(MAKECMDGOALS)))

setup: setup-demo
	@setup/packages.sh
	@setup/manifests.sh

# What the demo needs of it.
setup-demo:
	@setup/packages.sh demo
	@setup/bpf.sh
	@setup/cnitool.sh
	@setup/envoy.sh

# What is copied onto hosts with any C library brings its own. A target named
# explicitly keeps that flag away from build scripts and proc macros.
build: setup
	@$(CARGO) build --release
	@RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --target $(HOST) -p sluice-install -p kubectl-sluice
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
	@$(TARGET)/release/sluice-e2e runtimes

chaos: root build
	@$(TARGET)/release/sluice-conformance chaos

bench: root build
	@setup/packages.sh bench
	@$(TARGET)/release/sluice-bench $(BENCH)

scale: root build
	@$(TARGET)/release/sluice-conformance scale

# The plugin is the one that is shipped: static, with musl.
test: export SLUICED := $(TARGET)/debug/sluiced
test: root setup
	@setup/packages.sh metrics
	@cni-plugin/build.sh
	@.ci/tests

# 200,000 random connections through accelerated paths, every byte compared.
safety: root setup
	@$(CARGO) test -p sluiced --lib fuzz_accel -- --include-ignored --nocapture

test-kernels: root setup
	@setup/packages.sh kernels
	@RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --profile emulated --target $(HOST) -p workspace-hack -p sluiced
	@RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) test --profile emulated --target $(HOST) -p sluiced --lib \
		--config 'target.$(HOST).runner=["$(CURDIR)/conformance/kernels/run.sh","$(TARGET)/$(HOST)/emulated/sluiced"]' \
		-- bpf::tests::accelerate bpf::tests::fuzz_accel::syscalls bpf::tests::fuzz_accel::of_thousands bpf::tests::reroute

SECONDS_EACH ?= 5
fuzz: setup
	@setup/fuzz.sh
	@fuzz/run.sh $(SECONDS_EACH)

# The container image: static binaries and nothing else.
image-root: setup
	@RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --target $(HOST) -p sluiced -p sluice-install
	@cni-plugin/build.sh
	@install/manifests/tree.sh $(IMAGES)/sluice $(TARGET)/$(HOST)/release/{sluiced,sluice-install} $(SLUICE_CNI)

image: image-root
	@install/manifests/image.sh $(IMAGES)/sluice.tar $(IMAGE) $(IMAGES)/sluice /bin/sluiced
	@echo '$(IMAGES)/sluice.tar holds $(IMAGE)'

manifests:
	@setup/manifests.sh
	@$(TARGET)/tools/manifests/bin/python install/manifests/render.py >install/manifests/sluice.yaml
	@$(TARGET)/tools/manifests/bin/python install/manifests/values.py

e2e: IMAGE := sluice.test/sluice:latest
e2e: root image
	@setup/kubernetes.sh
	@RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --target $(HOST) -p sluice-e2e -p kubectl-sluice
	@conformance/sluice-e2e/images.sh $(TARGET)/$(HOST)/release $(ENVOY) $(IMAGES)
	@$(TARGET)/$(HOST)/release/sluice-e2e kubernetes

lint: setup
	@setup/cargo-deny.sh
	@.ci/lint

clean:
	@find $(TARGET) -mindepth 1 -maxdepth 1 ! -name tools ! -name setup ! -name kernels -exec rm -rf {} +

distclean:
	@rm -rf $(TARGET)

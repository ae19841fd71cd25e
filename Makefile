# What people and the pipeline call. The work is in scripts/ and xtask/.

.PHONY: help setup check build test e2e guest long bench demo

help:
	@echo "make demo    run a pod on this machine, from an image to its removal, and audit what is left"
	@echo "make test    everything: checks, unit tests, end-to-end tests (as root)"
	@echo "make check   formatting, lints, dependency edges, licences, bans and sources"
	@echo "make build   static programs into target/dist"
	@echo "make e2e     end-to-end tests only; RUNTIME=corten|containerd|both FILTER=text"
	@echo "make guest   all end-to-end tests on cgroup v2, in an emulated machine; FILTER=text"
	@echo "make long    what takes too long for each run; writes docs/long-tier.md; FUZZ=60"
	@echo "make bench   times and memory of pods, beside Debian's containerd; ROUNDS=30 PODS=120"
	@echo "make setup   install the Debian packages that tests and the demo need"

setup:
	@scripts/setup

check:
	@cargo run --locked --quiet --package xtask -- check

build:
	@cargo run --locked --quiet --package xtask -- build

test: setup
	@cargo run --locked --quiet --package xtask -- test

e2e: setup build
	@cargo run --locked --quiet --package e2e --bin e2e -- --runtime $(or $(RUNTIME),both) $(if $(FILTER),--filter $(FILTER))

guest: setup
	@cargo run --locked --quiet --package xtask -- guest $(if $(FILTER),--filter $(FILTER))

long: setup
	@cargo run --locked --quiet --package xtask -- long $(if $(FUZZ),--fuzz $(FUZZ))

bench: setup build
	@cargo run --locked --quiet --release --package bench -- pods --program $(or $(CARGO_TARGET_DIR),target)/dist/corten --rounds $(or $(ROUNDS),30) --pods $(or $(PODS),120)

demo: setup build
	@cargo run --locked --quiet --package e2e --bin demo

# Everything that a user or a developer types. `make` alone lists the targets; each one sets up what it lacks.

# For `make run`: engines to start, Cargo profile, and further arguments of `piparallel up`.
ENGINES ?= $(shell nproc)
PROFILE ?= dev
ARGS    ?=
# Of ipyparallel.
VERSION ?= 9.2.0
# For `make test` and `make compat`: versions of ipyparallel whose own tests are run, and `-curve` where all connections are
# encrypted; and files of a suite that run at a time, as they wait more than they compute.
SUITES ?= 8.8.0 9.2.0 9.2.0-curve
JOBS   ?= 3
# Machines to build for, as Debian calls them: `make cross`, `make deb`.
ARCH ?= arm64 armhf amd64
# What `make image` begins with: debian, raspios (kernels and firmware of Raspberry Pi's archive), or an image of Raspberry Pi OS.
BASE ?= debian
# Virtual Pis of `make vm`.
POOL ?= 3
# For `make buildroot-test`: where Buildroot is. Without, it is downloaded; `none` passes over what needs it.
BUILDROOT ?=
# For `make install`.
PREFIX  ?= /usr/local
DESTDIR ?=

CARGO   := cargo
# Cargo's dev profile builds into target/debug.
BINARY   = target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/piparallel
VENV     = $(CURDIR)/.venv/ipp-$(VERSION)

# Network namespaces, and engines that run as another user, need root.
AS_ROOT  = $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=PIPARALLEL_BIN)

export PIPARALLEL_BIN ?= $(CURDIR)/$(BINARY)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the program (PROFILE=dev or release)
	@tests/setup rust
	$(CARGO) build --locked --profile $(PROFILE) --package piparallel

.PHONY: run
run: build ## start a pool on this machine and show what it can do (ENGINES=8)
	@tests/setup venv $(VERSION)
	@PATH="$(VENV)/bin:$$PATH" VIRTUAL_ENV="$(VENV)" exec $(BINARY) up --demo -n $(ENGINES) $(ARGS)

.PHONY: test
test: ## run every test, with a summary at the end
	@tests/tiers unit fuzz-replay blackbox netns systemd-test "buildroot-test BUILDROOT=none" $(SUITES:%="compat SUITES=%")

.PHONY: appliance-test
appliance-test: ## build and test what a Pi gets: static programs, packages, the card in virtual machines (as root, an hour)
	@tests/tiers cross-test image-test deb-test

.PHONY: unit
unit: ## run the tests of the Rust code, the simulation among them
	@tests/setup rust
	$(CARGO) test --locked --workspace

.PHONY: blackbox
blackbox: build ## test the built program from outside, with real and with bad peers
	@tests/setup venv $(VERSION)
	cd tests/compat && $(VENV)/bin/python -m pytest $(ARGS)

.PHONY: netns
netns: build ## test nodes on a network of namespaces: discovery, joining, partitions (as root, or through sudo)
	@tests/setup netns
	@tests/setup venv $(VERSION)
	cd tests/netns && $(AS_ROOT) $(VENV)/bin/python -m pytest $(ARGS)

.PHONY: compat
compat: build ## run ipyparallel's own tests against it (SUITES="8.8.0 9.2.0 9.2.0-curve")
	@status=0; for suite in $(SUITES); do \
	    version=$${suite%-curve}; [ $$suite = $$version ] && curve= || curve=--curve; \
	    tests/setup venv $$version && \
	    tests/compat/upstream --version $$version $$curve --jobs $(JOBS) $(ARGS) || status=1; \
	done; exit $$status

.PHONY: fuzz-replay
fuzz-replay: ## feed the committed fuzzing corpus to the fuzz targets once
	@tests/setup rust
	$(CARGO) test --locked --package piparallel-core --test fuzz

.PHONY: lint
lint: ## check formatting, clippy, the documentation's links, shell scripts and Python
	@tests/setup lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	shellcheck $$(git ls-files -- tests .ci image buildroot | xargs awk 'FNR == 1 && /^#!.*[ \/](ba)?sh( -e)?$$/ { print FILENAME }')
	.venv/lint/bin/ruff check tests
	.venv/lint/bin/ruff format --check tests

.PHONY: bench
bench: ## measure it beside the stock controller and a raw libzmq broker
	@tests/setup zmq
	@tests/setup venv $(VERSION)
	@$(MAKE) --no-print-directory build PROFILE=release
	tests/bench/run $(ARGS)

.PHONY: bench-nodes
bench-nodes: ## measure how fast nodes join, return and are missed, in network namespaces (as root, or through sudo)
	@tests/setup netns
	@tests/setup venv $(VERSION)
	@$(MAKE) --no-print-directory build PROFILE=release
	@$(AS_ROOT) env PIPARALLEL_BIN=target/release/piparallel $(VENV)/bin/python tests/bench/nodes $(ARGS)

.PHONY: cross
cross: ## build static programs for the Pi and for servers (ARCH="arm64 armhf amd64")
	@tests/setup cross
	image/cross/build $(ARCH)

.PHONY: cross-test
cross-test: cross ## test these programs, under emulation
	@tests/setup venv $(VERSION)
	cd tests/cross && $(VENV)/bin/python -m pytest $(ARGS)

.PHONY: deb
deb: cross ## build Debian packages (ARCH="arm64 armhf amd64")
	image/deb/build $(ARCH)

.PHONY: deb-test
deb-test: ## install, upgrade, remove and purge the package on a clean Debian with its own systemd (as root)
	@tests/setup image
	@tests/setup venv $(VERSION)
	@$(MAKE) --no-print-directory deb ARCH="arm64 armhf amd64"
	image/rootfs/build amd64
	cd tests/deb && $(VENV)/bin/python -m pytest $(ARGS)

.PHONY: image
image: ## build card images for the Pi (ARCH="arm64 armhf", BASE=debian, as root)
	@tests/setup image
	@for arch in $(or $(filter-out amd64,$(ARCH)),amd64); do image/build $$arch "$(BASE)" || exit; done

target/image/piparallel-%.img:
	@$(MAKE) --no-print-directory image ARCH=$*

.PHONY: vm
vm: target/image/piparallel-arm64.img ## boot the image as a pool of virtual Pis on this machine (POOL=3, as root)
	@tests/setup image
	@tests/qemu/vm --pool $(POOL)

.PHONY: image-test
image-test: ## boot the image of arm64 as three virtual Pis and use them; and its Wi-Fi (as root, half an hour)
	@$(MAKE) --no-print-directory image ARCH=arm64
	@tests/setup venv $(VERSION)
	cd tests/qemu && $(VENV)/bin/python -m pytest test_pool.py test_wifi.py $(ARGS)

.PHONY: board-test
board-test: target/image/piparallel-arm64.img target/image/piparallel-armhf.img ## boot the cards in QEMU's boards of the Pi 2, 3 and 4, and on a machine of 32 bit (as root)
	@tests/setup boards
	@tests/setup venv $(VERSION)
	cd tests/qemu && $(VENV)/bin/python -m pytest test_boards.py $(ARGS)

.PHONY: base-test
base-test: target/image/piparallel-arm64.img ## build cards from what Raspberry Pi makes, of which it has stand-ins (as root, half an hour)
	@tests/setup image
	@tests/setup venv $(VERSION)
	cd tests/qemu && $(VENV)/bin/python -m pytest test_bases.py $(ARGS)

.PHONY: buildroot-test
buildroot-test: ## check the Buildroot tree, with Buildroot itself where it can be had (BUILDROOT=a checkout of 2026.08)
	@BUILDROOT="$(BUILDROOT)" tests/setup buildroot
	cd tests/buildroot && BUILDROOT="$(abspath $(BUILDROOT))" $(CURDIR)/.venv/buildroot/bin/python -m pytest $(ARGS)

.PHONY: systemd-test
systemd-test: ## check the units with systemd's own tools
	@tests/setup systemd
	@tests/setup venv $(VERSION)
	cd tests/systemd && $(VENV)/bin/python -m pytest $(ARGS)

.PHONY: install
install: ## install the program, units, manual and shell completions (PREFIX=/usr/local, DESTDIR=)
	@$(MAKE) --no-print-directory build PROFILE=release
	install -D -m 755 target/release/piparallel $(DESTDIR)$(PREFIX)/bin/piparallel
	image/install-data target/release/piparallel $(if $(DESTDIR),$(DESTDIR),/) $(PREFIX)

.PHONY: clean
clean: ## remove what was built, and the Python environments
	$(CARGO) clean
	rm -rf .venv

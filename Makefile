# One target directory for all checkouts: the build survives a clean one.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/easyfuse/target

.PHONY: build demo test deps bench install

build:
	cargo build --locked --release

# The main job, for real: a container (or this shell, where there is no Docker) on an SSH server's directory.
demo:
	tests/deps demo
	cargo build --locked
	examples/demo.sh "$(CARGO_TARGET_DIR)/debug/easyfuse"

# Everything, with real peers; what a missing program keeps from running says so.
test: deps
	cargo test --locked

deps:
	tests/deps test

bench: deps
	cargo bench --locked --bench plugin

install: build
	"$(CARGO_TARGET_DIR)/release/easyfuse" systemd install --enable

# `make help` shows the targets. What they need beyond Rust, Python 3 and make is installed by deploy/prerequisites.sh.

# ntex declares a newer Rust than it needs; the versions are those of Cargo.lock.
CARGO_FLAGS := --locked --ignore-rust-version
DATA ?= .bandar

.DEFAULT_GOAL := help
.PHONY: help run test bench lint

help: ## Show this list.
	@sed -n 's/^\([a-z]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

run: ## Build, start the whole platform (data in DATA=.bandar), print a demo device. Ctrl-C stops it.
	@deploy/prerequisites.sh run
	cargo build $(CARGO_FLAGS) --release --package bandar
	@exec target/release/bandar up --demo --data "$(DATA)"

test: ## Everything that continuous integration runs.
	@deploy/prerequisites.sh test
	@$(MAKE) --no-print-directory lint
	cargo build $(CARGO_FLAGS) --package bandar --package bench
	cargo build $(CARGO_FLAGS) --package extension --examples
	cargo test $(CARGO_FLAGS) --workspace --no-fail-fast --quiet
	BANDAR_BIN=target/debug/bandar .tools/venv/bin/pytest -q tests/e2e

lint: ## Formatting, clippy, the fuzz targets, and cargo-deny where it is installed.
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- --deny warnings
	@for fuzz in crates/*/fuzz; do \
		cargo check $(CARGO_FLAGS) --quiet --manifest-path $$fuzz/Cargo.toml --target-dir target/fuzz || exit 1; done
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check; else echo "cargo-deny is not installed: skipped"; fi

bench: ## The benchmarks: JSON lines in bench-results/ and a table. BENCH_FLAGS adds arguments.
	@deploy/prerequisites.sh bench
	cargo build $(CARGO_FLAGS) --release --package bandar --package bench
	target/release/bench --bandar target/release/bandar --profile all $(BENCH_FLAGS)

#!/usr/bin/env bash
# Sets up all that the tests need, then runs them: formatting, lints, and every test of the workspace on real parts.
# Usage: deploy/test.sh [FILTER...]    a filter, as of `cargo test`, leaves out formatting and lints
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/lib.sh

need_root
install_packages
install_rust
choose_target
check_runtimes

# The last lines, however the tests end: what they were without.
summary() {
  local status=$? line
  if [ "$status" = 0 ]; then say "All tests have passed in $SECONDS s"; fi
  if [ ${#NOT_RUN[@]} -gt 0 ]; then
    for line in "${NOT_RUN[@]}"; do say "NOT RUN: $line"; done
  fi
}
trap summary EXIT

say "Building in $CARGO_TARGET_DIR (the first time RocksDB takes about ten minutes on two cores)"
# Tests that cross processes start these.
cargo build --workspace --bins --locked
if [ $# = 0 ]; then
  rustup component add rustfmt clippy >/dev/null 2>&1 || true
  say "Checking format and lints"
  cargo fmt --all --check
  cargo clippy --workspace --all-targets --locked -- -D warnings
fi
say "Running the tests"
cargo test --workspace --locked --no-fail-fast -- "$@"

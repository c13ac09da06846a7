# Shared by quickstart.sh and test.sh: what both need of the machine, and how they speak. Sourced, never run.
# shellcheck shell=bash

# What the programs are built with, what they run containers with, what stands in for a registry and images, and what
# the benchmark measures beside.
PACKAGES=(build-essential ca-certificates curl git libclang-dev pkg-config protobuf-compiler libseccomp-dev
  busybox-static crun docker-registry etcd-server iproute2 nftables openssl runc util-linux)
# Of the workspace's Cargo.toml.
RUST_VERSION=1.88

# The gVisor that sandboxes on `runsc` are tested with: a version of its Go module.
RUNSC_VERSION=v0.0.0-20260905035102-160fafc42237
# What is left out of the tests, and why.
NOT_RUN=()

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || fail "This makes network namespaces and runs containers: run it as root, such as with sudo."
}

# Installs the packages that are missing; asks nothing where none is.
install_packages() {
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || fail "These packages are missing, and there is no apt-get to install them: ${missing[*]}"
  say "Installing ${missing[*]}"
  apt-get update -qq
  # The registry is started here when it is needed; the package must not start one of its own.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    made=1
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || {
    [ -n "$made" ] && rm -f "$policy"
    fail "apt-get could not install ${missing[*]}"
  }
  if [ -n "$made" ]; then rm -f "$policy"; fi
}

# A cargo of at least RUST_VERSION; by rustup where there is none.
install_rust() {
  # shellcheck disable=SC1091
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  local version
  version=$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
  if [ -n "$version" ] && [ "$(printf '%s\n' "$RUST_VERSION" "$version" | sort -V | head -1)" = "$RUST_VERSION" ]; then
    return
  fi
  say "Installing Rust (found: ${version:-none}, needed: $RUST_VERSION or newer)"
  curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal >/dev/null ||
    fail "Rust could not be installed; install Rust $RUST_VERSION or newer from https://rustup.rs and run this again."
  # shellcheck disable=SC1091
  . "$HOME/.cargo/env"
}

# Where to build: beside the sources, but outside of a checkout that is thrown away after one run.
choose_target() {
  if [ -z "${CARGO_TARGET_DIR:-}" ]; then
    if [ "${CI:-}" = true ]; then
      CARGO_TARGET_DIR="$HOME/.cache/sandboxd/target"
    else
      CARGO_TARGET_DIR="$PWD/target"
    fi
  fi
  export CARGO_TARGET_DIR
}

# Puts a `runsc` on the search path: the machine's own, or else one that is built from its module, once, where Go is at
# hand. What can't be had is said in NOT_RUN, and the rest goes on without.
find_runsc() {
  command -v runsc >/dev/null && return
  local folder="$HOME/.cache/sandboxd/runsc/$RUNSC_VERSION" go begun=$SECONDS
  if [ ! -x "$folder/runsc" ]; then
    go=$(command -v go || command -v /usr/local/go/bin/go || true)
    if [ -z "$go" ]; then
      NOT_RUN+=("everything with runsc (gVisor): it is not installed, and there is no Go to build it with")
      return
    fi
    say "Building runsc (gVisor), once, with $("$go" env GOVERSION): some three minutes"
    # It runs itself again in a root of its own, where there is no libc: cgo would link it to one.
    if ! CGO_ENABLED=0 GOBIN="$folder.new" nice "$go" install -trimpath \
      -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=${RUNSC_VERSION#v0.0.0-}" \
      "gvisor.dev/gvisor/runsc@$RUNSC_VERSION" >&2; then
      NOT_RUN+=("everything with runsc (gVisor): it is not installed, and building it with $go failed; see above")
      return
    fi
    rm -rf "$folder"
    mv "$folder.new" "$folder"
    say "runsc was built in $((SECONDS - begun)) s"
  fi
  export PATH="$folder:$PATH"
}

# Adds to NOT_RUN the runtimes that no package and no build has brought.
check_runtimes() {
  local runtime
  for runtime in runc crun; do
    command -v "$runtime" >/dev/null || NOT_RUN+=("everything with $runtime: it is not installed")
  done
  find_runsc
}

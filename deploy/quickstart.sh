#!/usr/bin/env bash
# From a clean machine to a running cluster, and through a first failover: installs what is missing, builds, starts
# three replicas and two agents on this machine, runs two containers that share a volume, kills the leader, goes on.
# Run it again at any time: it starts anew. `sbxctl dev down` and this script's last lines say how to clean up.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/lib.sh

REGISTRY_PORT=${REGISTRY_PORT:-5077}
RUN_DIR=/run/sandboxd
REGISTRY_DIR=/var/lib/sandboxd/registry
REGISTRY_PID=$RUN_DIR/quickstart-registry.pid

# Shows a command as a user would type it, then runs it.
show() {
  printf '\n$ %s\n' "$*" >&2
  "$@"
}

# Shows the first lines of a command that would go on for ever.
show_lines() {
  local lines=$1
  shift
  printf '\n$ %s\n' "$*" >&2
  # That the command's output ends early is no failure.
  (set +o pipefail && "$@" | head -n "$lines")
}

# Ends the registry of an earlier run, and nothing else that may have its number now.
stop_registry() {
  local pid
  pid=$(cat "$REGISTRY_PID" 2>/dev/null) || return 0
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = docker-registry ]; then kill "$pid"; fi
  rm -f "$REGISTRY_PID"
}

start_registry() {
  mkdir -p "$RUN_DIR" "$REGISTRY_DIR"
  stop_registry
  cat >"$REGISTRY_DIR/config.yml" <<CONFIG
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $REGISTRY_DIR/data}}
http: {addr: "0.0.0.0:$REGISTRY_PORT"}
CONFIG
  setsid docker-registry serve "$REGISTRY_DIR/config.yml" </dev/null >"$REGISTRY_DIR/log" 2>&1 &
  echo $! >"$REGISTRY_PID"
  local tries=0
  until curl -fsS -o /dev/null "http://127.0.0.1:$REGISTRY_PORT/v2/" 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || fail "The registry does not answer on port $REGISTRY_PORT; see $REGISTRY_DIR/log"
    sleep 0.1
  done
}

need_root
install_packages
install_rust
choose_target
say "Building (the first time RocksDB takes about ten minutes on two cores)"
cargo build --workspace --bins --locked
export PATH="$CARGO_TARGET_DIR/debug:$PATH"

if [ -e /var/lib/sandboxd/dev/cluster.json ]; then
  say "Taking down the cluster of an earlier run"
  sbxctl dev --dir /var/lib/sandboxd/dev down
fi

MIRROR=()
if curl -fsS -m 5 -o /dev/null https://registry-1.docker.io/v2/ 2>/dev/null ||
  [ "$(curl -s -m 5 -o /dev/null -w '%{http_code}' https://registry-1.docker.io/v2/)" = 401 ]; then
  say "Images come from Docker Hub"
else
  say "Docker Hub can't be reached from here: filling a local registry with stand-ins made of busybox"
  start_registry
  test-images push --registry "http://127.0.0.1:$REGISTRY_PORT"
  MIRROR=(--mirror "docker.io=http://{host}:$REGISTRY_PORT")
fi

say "Starting three replicas and two agents, each a host of its own"
show sbxctl dev up --replicas 3 --agents 2 "${MIRROR[@]}"
show sbxctl dev status

follower=$(sbxctl dev status | awk '$5 == "follower" {print $4; exit}')
say "Applying examples/shared-volume.yaml through a follower, $follower"
show sbxctl --server "https://$follower:7070" apply -f examples/shared-volume.yaml --wait
show sbxctl get sandboxes -o wide

say "The reader prints what the writer puts into the shared volume"
show_lines 3 sbxctl logs -f shared-volume

say "Killing the leader"
show sbxctl dev kill leader
show sbxctl apply -f examples/minimal.yaml --wait
show sbxctl get cluster
show sbxctl get sandboxes

say "The first sandbox never stopped: its log goes on"
show_lines 4 sbxctl logs --tail 2 -f shared-volume

cat >&2 <<NEXT

The cluster runs on. Go on with:
  export PATH="$CARGO_TARGET_DIR/debug:\$PATH"
  sbxctl get sandboxes --watch
  sbxctl apply -f examples/web.yaml --wait       a published port with a readiness probe
  sbxctl dev status                              which replica leads; one is dead
  sbxctl delete sandbox shared-volume minimal --wait
  sbxctl dev down                                ends it all and leaves nothing behind
NEXT
if [ ${#MIRROR[@]} -gt 0 ]; then
  printf '  kill "$(cat %s)"   ends the local registry\n' "$REGISTRY_PID" >&2
fi

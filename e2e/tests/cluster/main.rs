//! The main job on a real local cluster: three replicas, agents in namespaces of their own, a real registry,
//! real containers. One binary, so that all tests share the registry. Needs root.

mod agents;
mod copy;
mod events;
mod exec;
mod forward;
mod gvisor;
mod isolation;
mod lease;
mod lifecycle;
mod logs;
mod members;
mod network;
mod replicas;
mod secure;
mod tracing;
mod upgrade;
mod volumes;
mod watch;

use e2e::cluster::Cluster;
use e2e::traces::Traces;
use std::time::{Duration, Instant};

/// Long above what anything here takes, so that a slow machine fails no test.
const LONG: Duration = Duration::from_secs(60);

/// A sandbox of one busybox container that runs `script`; `more` are further lines of its `spec`.
fn manifest(id: &str, script: &str, more: &str) -> String {
    format!(
        "apiVersion: sandboxd.o/v1
kind: Sandbox
id: {id}
spec:
  {more}
  containers:
    - name: main
      image: busybox:1.36
      args: [/bin/sh, -c, {script:?}]
      resource: {{cpu: 100m, memory: 32Mi, ephemeral_storage: 16Mi}}
"
    )
}

/// What a node looks like without sandboxes, once one has been there: what stays for good, such as images and the
/// agent's own folders, has come.
#[track_caller]
fn traces_of_nothing(cluster: &Cluster, agent: &str) -> Traces {
    cluster
        .apply(&manifest("first", "sleep 600", ""), &["--wait"])
        .ok();
    cluster.run("delete sandbox first --wait").ok();
    Traces::of(cluster, agent)
}

/// Waits for a line of a sandbox's logs, following them.
#[track_caller]
fn await_log(cluster: &Cluster, sandbox: &str, part: &str) -> String {
    use std::io::{BufRead, BufReader};
    let mut child = cluster.start(&format!("logs -f {sandbox}"));
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut said = Vec::new();
    let mut found = None;
    let begun = Instant::now();
    for line in lines.map_while(Result::ok) {
        said.push(line.clone());
        if line.contains(part) {
            found = Some(line);
            break;
        }
        assert!(
            begun.elapsed() < LONG,
            "{sandbox} has not said {part:?} but {said:#?}"
        );
    }
    child.kill().ok();
    child.wait().ok();
    found.unwrap_or_else(|| panic!("{sandbox} ended without saying {part:?} but {said:#?}"))
}

/// All that a sandbox that has ended, or a short while, has said.
#[track_caller]
fn logs(cluster: &Cluster, sandbox: &str) -> String {
    cluster.sbxctl(&["logs", sandbox]).ok()
}

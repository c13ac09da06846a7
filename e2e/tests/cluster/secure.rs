//! Who may speak to a cluster, as users and operators meet it: tokens, authorities, machines that join.

use super::{LONG, await_log, manifest};
use e2e::cluster::{Cluster, Ran, program};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// Runs a command line with a token that the context does not have.
#[track_caller]
fn with_token(cluster: &Cluster, token: &str, line: &str) -> Ran {
    let mut command = cluster.command();
    command
        .env("SBX_TOKEN", token.trim())
        .args(line.split_whitespace());
    command.output().expect("sbxctl runs").into()
}

#[test]
fn tokens_are_made_used_and_revoked() {
    let cluster = Cluster::up(0, &[]);
    let viewer = cluster.run("token create look --role viewer").ok();
    with_token(&cluster, &viewer, "get nodes").ok();
    with_token(&cluster, &viewer, "delete node n").fails(1, "is a viewer, and this takes operator");
    with_token(&cluster, &viewer, "token ls").fails(1, "takes admin");
    let id = viewer.split('.').nth(1).expect("a token has an id");
    let listed = cluster.run("token ls").ok();
    assert!(listed.contains(id) && listed.contains("look"), "{listed}");
    assert!(!listed.contains(viewer.trim()), "a secret is shown once");
    cluster.run(&format!("token revoke {id}")).ok();
    for replica in cluster.members() {
        let line = format!("--server {} get nodes", replica.endpoint());
        with_token(&cluster, &viewer, &line).fails(1, "sbxctl token create");
    }
    with_token(&cluster, "changeme", "get nodes").fails(1, "is no token");
}

#[test]
fn whoever_loses_his_token_loses_his_shell_his_logs_and_his_watch() {
    let cluster = Cluster::up(1, &[]);
    let script = "while true; do echo beat; sleep 0.1; done";
    cluster.apply(&manifest("s", script, ""), &["--wait"]).ok();
    let token = cluster.run("token create guest --role operator").ok();
    let begin = |line: &[&str]| {
        let mut child = cluster
            .command()
            .env("SBX_TOKEN", token.trim())
            .args(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sbxctl runs");
        // It has begun.
        let mut first = [0];
        let stdout = child.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut first).expect("it says something");
        (child.stdin.take(), child)
    };
    let begun = [
        begin(&["exec", "s", "--", "/bin/sh", "-c", script]),
        begin(&["exec", "-i", "s", "--", "/bin/sh", "-c", "echo here; exec cat"]),
        begin(&["logs", "-f", "s"]),
        begin(&["get", "sandboxes", "-w"]),
    ];
    let id = token.split('.').nth(1).expect("a token has an id");
    cluster.run(&format!("token revoke {id}")).ok();
    for (_open, child) in begun {
        // What it writes is read, and its input stays open, until it ends by itself.
        let (told, output) = mpsc::channel();
        std::thread::spawn(move || told.send(child.wait_with_output()));
        let output = output.recv_timeout(LONG).expect("it ends in time");
        Ran::from(output.expect("it ends")).fails(1, "it was revoked");
    }
    // Others go on.
    await_log(&cluster, "s", "beat");
}

#[test]
fn authority_of_another_cluster_is_told_at_once() {
    let cluster = Cluster::up(0, &["--replicas", "1"]);
    let other = cluster.dir().with_file_name("other");
    let init = format!(
        "cluster init --replica 1=https://a:1=https://a:2 --out {}",
        other.display()
    );
    let made = cluster
        .command()
        .env("HOME", cluster.dir())
        .args(init.split_whitespace())
        .output();
    Ran::from(made.expect("sbxctl runs")).ok();
    let wrong = format!("--ca {}/ca.crt get nodes", other.display());
    cluster.run(&wrong).fails(1, "--ca");
    // The token of another cluster is none here.
    let token = std::fs::read_to_string(other.join("admin.token")).expect("it was made");
    with_token(&cluster, &token, "get nodes").fails(1, "another cluster's");
}

/// An agent that is started by hand, in the network of a member whose own was killed. Ended when dropped.
struct ByHand(Child);

impl ByHand {
    fn start(cluster: &Cluster, member: &str, node: &str, token: &str) -> Self {
        let member = cluster.member(member);
        let dir = cluster.dir().join(node);
        let parent = format!(
            "/sandboxd-dev-{}/{node}",
            member.address.split('.').nth(2).unwrap_or_default()
        );
        let server = cluster.member_that_is("follower").endpoint();
        let netns = cluster.dir().join(&member.name).join("netns");
        let log = std::fs::File::create(cluster.dir().join(format!("{node}.log"))).expect("made");
        let child = Command::new("nsenter")
            .arg(format!("--net={}", netns.display()))
            .arg(program("sbxlet"))
            .args([
                "--node-id",
                node,
                "--advertise-ip",
                &member.address,
                "--server",
                &server,
            ])
            .args([
                "--cgroup-parent",
                &parent,
                "--join-token",
                token.trim(),
                "--state-dir",
            ])
            .arg(dir)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        Self(child.expect("nsenter runs"))
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Waits for a node that is not there yet, following the changes of all.
#[track_caller]
fn await_ready(cluster: &Cluster, node: &str) {
    use std::io::{BufRead, BufReader};
    let mut child = cluster.start("get nodes --watch");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let is_ready = |line: String| line.starts_with(node) && line.contains(" Ready ");
    let found = lines.any(|line| line.is_ok_and(is_ready));
    child.kill().ok();
    child.wait().ok();
    assert!(found, "the watch has ended without {node} Ready");
}

#[test]
fn agent_joins_with_a_token_that_is_good_for_one() {
    let cluster = Cluster::up(1, &[]);
    let token = cluster.run("token create --join-node").ok();
    cluster.run("dev kill agent-1").ok();
    let joined = ByHand::start(&cluster, "agent-1", "joined", &token);
    await_ready(&cluster, "joined");
    drop(joined);
    let mut second = ByHand::start(&cluster, "agent-1", "second", &token);
    let ended = second.0.wait().expect("it ends");
    assert!(!ended.success());
    let said = std::fs::read_to_string(cluster.dir().join("second.log")).expect("it has a log");
    assert!(said.contains("was used by node/joined already"), "{said}");
}

//! Spans that follow a sandbox over all processes, sent to a real receiver.

use super::{LONG, manifest};
use e2e::cluster::Cluster;
use e2e::collector::{Collector, Received};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// For a process that is asked to end: what it does besides, and the time that its last spans are given.
const SOON: Duration = Duration::from_secs(10);

/// From the request to Running: service, span, and the span that it hangs on.
const TREE: [(&str, &str, &str); 16] = [
    ("sbxorch", "apply", ""),
    ("sbxorch", "propose", "apply"),
    ("sbxorch", "place", "apply"),
    ("sbxorch", "tell", "apply"),
    ("sbxlet", "run", "apply"),
    ("sbxlet", "address", "run"),
    ("sbxlet", "provide", "run"),
    ("sbxlet", "pull", "provide"),
    ("sbxlet", "namespaces", "provide"),
    ("sbxlet", "prepare", "run"),
    ("sbxlet", "network", "prepare"),
    ("sbxlet", "files", "prepare"),
    ("sbxlet", "cgroup", "prepare"),
    ("sbxlet", "bundle", "prepare"),
    ("sbxlet", "start", "run"),
    ("sbxlet", "ready", "run"),
];

/// A cluster whose members send their spans to this port of the machine.
#[track_caller]
fn cluster(port: u16, agents: u8, more: &[&str]) -> Cluster {
    let replicas = format!("--replica-arg=--otlp-endpoint=http://{{host}}:{port}");
    let of_agents = format!("--agent-arg=--otlp-endpoint=http://{{host}}:{port}");
    Cluster::up(agents, &[&[replicas.as_str(), &of_agents], more].concat())
}

fn named<'a>(spans: &[&'a Received], name: &str) -> &'a Received {
    let found = spans.iter().find(|one| one.span.name == name);
    found.unwrap_or_else(|| panic!("no {name} among {spans:#?}"))
}

#[track_caller]
fn log(cluster: &Cluster, member: &str) -> String {
    std::fs::read_to_string(cluster.dir().join(member).join("log")).expect("a log")
}

/// Spans of the trace that this sandbox is in.
fn of_sandbox<'a>(received: &'a [Received], id: &str) -> Vec<&'a Received> {
    let own = received
        .iter()
        .find(|one| one.attribute("sandboxd.sandbox.id") == id);
    let trace = own.map(Received::trace_id);
    received
        .iter()
        .filter(|one| trace == Some(one.trace_id()))
        .collect()
}

#[test]
fn one_trace_follows_a_sandbox_from_the_request_to_running() {
    let mut collector = Collector::start();
    let cluster = cluster(collector.port(), 1, &[]);
    cluster.apply(&manifest("web", "sleep 600", ""), &["--wait"]).ok();
    let received = collector.wait_for(LONG, |all| of_sandbox(all, "web").len() >= TREE.len());
    let spans = of_sandbox(received, "web");
    assert_eq!(spans.len(), TREE.len(), "{spans:#?}");
    for (service, name, parent) in TREE {
        let one = named(&spans, name);
        assert_eq!(one.service, service, "{name}");
        let above = match parent {
            "" => Vec::new(),
            parent => named(&spans, parent).span.span_id.clone(),
        };
        assert_eq!(one.span.parent_span_id, above, "{name} hangs on {parent}");
        assert_eq!(one.span.status.clone().unwrap_or_default().code, 0, "{name}");
    }
    let begun = |name: &str| named(&spans, name).span.start_time_unix_nano;
    let ended = |name: &str| named(&spans, name).span.end_time_unix_nano;
    // One machine has one clock.
    for order in [
        &["apply", "propose", "place", "tell", "run"][..],
        &["run", "address", "provide", "prepare", "start", "ready"],
    ] {
        assert!(order.is_sorted_by_key(|name| begun(name)), "{spans:#?}");
    }
    for (_, name, parent) in TREE {
        assert!(begun(name) <= ended(name), "{name}");
        if !matches!(parent, "" | "apply") {
            assert!(begun(parent) <= begun(name), "{name} begins within {parent}");
            assert!(ended(name) <= ended(parent), "{name} ends within {parent}");
        }
    }
    assert!(ended("apply") < ended("run"), "Running comes after the answer");

    let leader = cluster.leader();
    let uid = named(&spans, "run").attribute("sandboxd.sandbox.uid");
    for (name, instance) in [
        ("apply", leader.trim_start_matches("replica-")),
        ("run", "agent-1"),
    ] {
        let one = named(&spans, name);
        assert_eq!(one.instance, instance, "{name}");
        assert_eq!(one.attribute("sandboxd.sandbox.id"), "web");
        assert_eq!(one.attribute("sandboxd.sandbox.uid"), uid);
    }
    assert_eq!(named(&spans, "place").attribute("sandboxd.node.id"), "agent-1");

    // The same id is in the logs of both.
    let trace = spans[0].trace_id();
    for member in [leader.as_str(), "agent-1"] {
        assert!(
            log(&cluster, member).contains(&trace),
            "{member} does not log {trace}"
        );
    }
}

/// Also where another replica than the leader is asked.
#[test]
fn request_hangs_on_the_span_of_a_caller_that_records() {
    let mut collector = Collector::start();
    let cluster = cluster(collector.port(), 1, &["--insecure"]);
    let follower = cluster.member_that_is("follower");
    let resource = r#"{"cpu":"100m","memory":"32Mi"}"#;
    let container = format!(r#"{{"name":"c","image":"busybox:1.36","args":["true"],"resource":{resource}}}"#);
    let body = format!(r#"{{"id":"web","spec":{{"containers":[{container}]}}}}"#);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = format!(
        "POST /api/v1/sandboxes HTTP/1.1\r\nhost: sandboxd\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\
         traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect((follower.address.as_str(), 7070)).expect("a connection");
    stream.write_all(request.as_bytes()).expect("it is asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let is_apply = |one: &Received| one.span.name == "apply";
    let received = collector.wait_for(LONG, |all| all.iter().any(is_apply));
    let spans = of_sandbox(received, "web");
    let apply = named(&spans, "apply");
    assert_eq!(apply.trace_id(), trace);
    assert_eq!(apply.span.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
}

#[test]
fn trace_of_a_sandbox_that_fails_says_why() {
    let mut collector = Collector::start();
    let cluster = cluster(collector.port(), 1, &[]);
    let missing = manifest("none", "true", "").replace("busybox:1.36", "busybox:no-such-tag");
    cluster.apply(&missing, &[]).ok();
    cluster.wait("sandbox/none", "phase=Failed", LONG).ok();
    let is_run = |one: &Received| one.span.name == "run";
    let received = collector.wait_for(LONG, |all| all.iter().any(is_run));
    let spans = of_sandbox(received, "none");
    for name in ["provide", "run"] {
        let one = named(&spans, name);
        let status = one.span.status.clone().unwrap_or_default();
        assert_eq!(status.code, 2, "{name}: {status:?}");
        assert!(status.message.contains("no-such-tag"), "{status:?}");
        assert_eq!(one.attribute("sandboxd.reason"), "ImagePullFailed");
    }
}

/// Ends it as an operator does.
#[track_caller]
fn terminate(cluster: &Cluster, name: &str) {
    let pid = cluster.member(name).pid.expect("it runs");
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("it is there");
    let begun = Instant::now();
    while cluster.member(name).process != "dead" {
        assert!(begun.elapsed() < SOON, "{name} does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where nobody listens, and where connections are taken and nothing is ever answered.
#[test]
fn collector_that_is_of_no_use_costs_nothing() {
    let silent = TcpListener::bind("0.0.0.0:0").expect("a port");
    let silent_port = silent.local_addr().expect("an address").port();
    for port in [1, silent_port] {
        let cluster = cluster(port, 1, &[]);
        cluster.apply(&manifest("web", "sleep 600", ""), &["--wait"]).ok();
        for member in [cluster.leader().as_str(), "agent-1"] {
            terminate(&cluster, member);
            let log = log(&cluster, member);
            let warnings = log.matches("the collector does not take spans").count();
            let last = log.matches("the last spans are lost").count();
            assert!(
                warnings <= 1 && warnings + last >= 1,
                "{member} says it once: {log}"
            );
        }
    }
}

/// The contract's times, shortened.
const SHORT: [&str; 3] = [
    "--replica-arg=--heartbeat=200ms",
    "--replica-arg=--node-grace=2s",
    "--replica-arg=--node-lease=5s",
];

#[test]
fn sandbox_that_is_placed_again_stays_one_tree() {
    let mut collector = Collector::start();
    let cluster = cluster(collector.port(), 2, &SHORT);
    cluster
        .apply(
            &manifest("moves", "sleep 600", "on_node_loss: reschedule"),
            &["--wait"],
        )
        .ok();
    let runs = |all: &[Received]| all.iter().filter(|one| one.span.name == "run").count();
    collector.wait_for(LONG, |all| {
        runs(all) == 1 && all.iter().any(|one| one.span.name == "apply")
    });
    let node = cluster.get("sandbox", "moves")["status"]["node_name"].clone();
    cluster
        .run(&format!("dev kill {}", node.as_str().expect("a node")))
        .ok();
    let received = collector.wait_for(LONG, |all| runs(all) == 2);
    let spans = of_sandbox(received, "moves");
    let apply = named(&spans, "apply");
    let again: Vec<_> = spans.iter().filter(|one| one.span.name == "run").collect();
    assert_eq!(again.len(), 2, "{spans:#?}");
    assert_ne!(again[0].instance, again[1].instance);
    assert_ne!(again[0].span.span_id, again[1].span.span_id);
    for run in again {
        assert_eq!(run.span.parent_span_id, apply.span.span_id);
    }
}

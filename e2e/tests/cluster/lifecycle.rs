//! From apply to the last trace: how sandboxes run, end, expire and go.

use super::{LONG, logs, manifest, traces_of_nothing};
use e2e::cluster::Cluster;
use e2e::traces::Traces;

#[test]
fn delete_leaves_nothing_on_the_node() {
    let cluster = Cluster::up(1, &[]);
    let before = traces_of_nothing(&cluster, "agent-1");
    let web = include_str!("../../../examples/web.yaml");
    let shared = include_str!("../../../examples/shared-volume.yaml");
    cluster.apply(&format!("{web}\n---\n{shared}"), &["--wait"]).ok();
    cluster
        .apply(&manifest("ended", "exit 3", "runtime: runc"), &[])
        .ok();
    cluster.wait("sandbox/ended", "phase=Failed", LONG).ok();
    let during = Traces::of(&cluster, "agent-1");
    assert!(during.mounts.len() > before.mounts.len(), "{during:#?}");
    assert!(during.links.len() == before.links.len() + 2, "{during:#?}");
    assert_eq!(
        during.processes.len(),
        2,
        "one monitor per running sandbox: {during:#?}"
    );
    cluster.run("delete sandbox web shared-volume ended --wait").ok();
    assert_eq!(Traces::of(&cluster, "agent-1"), before);
    let left = cluster.run("get sandboxes -o json").ok();
    assert!(!left.contains("\"id\""), "{left}");
}

/// What each end of a container makes of its sandbox.
/// Its child is beyond the memory limit by one allocation that is filled at once: nothing else of it is at work for which
/// the kernel might look for a second victim, which could be the shell.
const GREEDY: &str = "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 9";

#[test]
fn ends_of_containers_decide_phase_reason_and_exit_code() {
    let cluster = Cluster::up(1, &[]);
    let table = [
        ("well", "exit 0", "native", "Succeeded", None, 0, false),
        (
            "bad",
            "echo oh no >&2; exit 7",
            "native",
            "Failed",
            Some("ContainerExited"),
            7,
            false,
        ),
        (
            "bad-runc",
            "exit 7",
            "runc",
            "Failed",
            Some("ContainerExited"),
            7,
            false,
        ),
        (
            "bad-crun",
            "exit 7",
            "crun",
            "Failed",
            Some("ContainerExited"),
            7,
            false,
        ),
        (
            "killed",
            "sh -c 'kill -9 $$'; exit $?",
            "native",
            "Failed",
            Some("ContainerExited"),
            137,
            false,
        ),
        ("oom", GREEDY, "native", "Failed", Some("OOMKilled"), 9, true),
        ("oom-runc", GREEDY, "runc", "Failed", Some("OOMKilled"), 9, true),
        ("oom-crun", GREEDY, "crun", "Failed", Some("OOMKilled"), 9, true),
    ];
    let all: Vec<String> = table
        .iter()
        .map(|(id, script, runtime, ..)| manifest(id, script, &format!("runtime: {runtime}")))
        .collect();
    cluster.apply(&all.join("\n---\n"), &[]).ok();
    for (id, _, _, phase, reason, exit_code, oom) in table {
        cluster.wait(&format!("sandbox/{id}"), "Ended", LONG).ok();
        let sandbox = cluster.get("sandbox", id);
        let status = &sandbox["status"];
        assert_eq!(status["phase"], phase, "{sandbox:#}");
        assert_eq!(status["reason"].as_str(), reason, "{sandbox:#}");
        assert_eq!(status["containers"][0]["exit_code"], exit_code, "{sandbox:#}");
        assert_eq!(status["containers"][0]["oom_killed"], oom, "{sandbox:#}");
        assert!(status["ended_at"].is_string(), "{sandbox:#}");
    }
    assert!(logs(&cluster, "bad").contains("oh no"), "logs stay after the end");
    let oom = cluster.get("sandbox", "oom");
    let message = oom["status"]["last_error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        message.contains("main"),
        "the message names the container: {message}"
    );
}

#[test]
fn one_failing_container_ends_the_others() {
    let cluster = Cluster::up(1, &[]);
    let manifest = "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: pair
spec:
  containers:
    - {name: lives, image: 'busybox:1.36', args: [sleep, '600'], resource: {cpu: 100m, memory: 32Mi}}
    - {name: fails, image: 'busybox:1.36', args: [/bin/sh, -c, exit 4], resource: {cpu: 100m, memory: 32Mi}}
";
    cluster.apply(manifest, &[]).ok();
    cluster.wait("sandbox/pair", "phase=Failed", LONG).ok();
    let sandbox = cluster.get("sandbox", "pair");
    let message = sandbox["status"]["last_error"].as_str().unwrap_or_default();
    assert!(message.contains("fails") && message.contains('4'), "{sandbox:#}");
    for container in sandbox["status"]["containers"].as_array().expect("containers") {
        assert_eq!(container["state"], "Exited", "{sandbox:#}");
    }
}

#[test]
fn ttl_ends_a_sandbox_by_itself() {
    let cluster = Cluster::up(1, &[]);
    let brief = |ttl: u64| manifest("brief", "sleep 600", &format!("ttl_seconds: {ttl}"));
    let begun = std::time::Instant::now();
    cluster.apply(&brief(600), &["--wait"]).ok();
    let before = cluster.get("sandbox", "brief");
    assert!(before["status"]["expire_at"].is_string(), "{before:#}");
    // From its creation, however long it took to start.
    cluster.apply(&brief(begun.elapsed().as_secs() + 3), &[]).ok();
    cluster.wait("sandbox/brief", "deleted", LONG).ok();
    let traces = Traces::of(&cluster, "agent-1");
    assert!(
        traces.mounts.iter().all(|m| !m.contains("/sandboxes/")),
        "{traces:#?}"
    );
    assert!(traces.processes.is_empty(), "{traces:#?}");
}

#[test]
fn what_does_not_fit_waits_with_reasons_and_is_placed_once_it_does() {
    let cluster = Cluster::up(1, &["--agent-arg=--cpu=1"]);
    let big = |id: &str| manifest(id, "sleep 600", "").replace("cpu: 100m", "cpu: 600m");
    cluster.apply(&big("one"), &["--wait"]).ok();
    cluster.apply(&big("two"), &[]).ok();
    cluster
        .apply(
            &manifest("three", "sleep 600", "node_selector: {region: eu}"),
            &[],
        )
        .ok();
    for (id, why) in [("two", "insufficient cpu"), ("three", "selector region=eu")] {
        cluster.wait(&format!("sandbox/{id}"), "phase=Pending", LONG).ok();
        let begun = std::time::Instant::now();
        loop {
            let sandbox = cluster.get("sandbox", id);
            let message = sandbox["status"]["last_error"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if message.contains("0/1 nodes fit") && message.contains(why) {
                break;
            }
            assert!(begun.elapsed() < LONG, "{sandbox:#}");
        }
    }
    cluster.run("delete sandbox one --wait").ok();
    cluster.wait("sandbox/two", "phase=Running", LONG).ok();
    let node =
        "apiVersion: sandboxd.o/v1\nkind: Node\nid: agent-1\nmetadata: {labels: {region: eu}}\nspec: {}\n";
    cluster.apply(node, &[]).ok();
    cluster.wait("sandbox/three", "phase=Running", LONG).ok();
}

#[test]
fn faults_of_images_and_commands_are_told() {
    let cluster = Cluster::up(1, &[]);
    let missing = manifest("missing", "true", "").replace("busybox:1.36", "nothing/here:1");
    let no_program = manifest("no-program", "true", "").replace("/bin/sh", "/bin/nothing");
    cluster.apply(&format!("{missing}\n---\n{no_program}"), &[]).ok();
    for (id, reason, part) in [
        ("missing", "ImagePullFailed", "nothing/here:1"),
        ("no-program", "StartFailed", "/bin/nothing"),
    ] {
        cluster.wait(&format!("sandbox/{id}"), "phase=Failed", LONG).ok();
        let sandbox = cluster.get("sandbox", id);
        assert_eq!(sandbox["status"]["reason"], reason, "{sandbox:#}");
        let message = sandbox["status"]["last_error"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn spec_is_immutable_unless_replaced() {
    let cluster = Cluster::up(1, &[]);
    let first = manifest("fixed", "echo first; sleep 600", "");
    cluster.apply(&first, &["--wait"]).ok();
    assert!(cluster.apply(&first, &[]).ok().contains("unchanged"));
    let longer = first.replace("spec:\n  ", "spec:\n  ttl_seconds: 900");
    assert!(cluster.apply(&longer, &[]).ok().contains("configured"));
    let other = manifest("fixed", "echo second; sleep 600", "ttl_seconds: 900");
    cluster.apply(&other, &[]).fails(1, "spec.containers[0].args");
    cluster.apply(&other, &["--replace", "--wait"]).ok();
    super::await_log(&cluster, "fixed", "second");
    assert!(!logs(&cluster, "fixed").contains("first"));
}

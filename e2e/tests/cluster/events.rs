//! What has happened, as `sbxctl describe` and `sbxctl events` tell it of real sandboxes and nodes.

use super::{LONG, manifest};
use e2e::cluster::Cluster;
use serde_json::Value;
use std::time::Instant;

/// Reasons, in the order in which `sbxctl events` tells them.
#[track_caller]
fn reasons(cluster: &Cluster, what: &[&str]) -> Vec<(String, String)> {
    let args = [&["events"], what, &["-o", "json"]].concat();
    let told: Value = serde_json::from_str(&cluster.sbxctl(&args).ok()).expect("it is JSON");
    let items = told["items"].as_array().expect("a list").iter();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    items
        .map(|item| (text(item, "object"), text(item, "reason")))
        .collect()
}

#[track_caller]
fn check(cluster: &Cluster, object: &str, expected: &[&str]) {
    let told = reasons(cluster, &[object]);
    let expected: Vec<_> = expected
        .iter()
        .map(|reason| (object.to_owned(), (*reason).to_owned()))
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn life_of_a_sandbox_is_told_from_its_creation_to_its_end() {
    let cluster = Cluster::up(1, &[]);
    let labelled = |id: &str, script: &str, more: &str| {
        manifest(id, script, more).replace("spec:", "metadata: {labels: {told: 'yes'}}\nspec:")
    };
    // It has started, for all to see, before it fails.
    let script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; exit 3";
    cluster.apply(&labelled("fails", script, ""), &["--wait"]).ok();
    cluster.run("exec fails -- touch /tmp/go").ok();
    cluster.wait("sandbox/fails", "phase=Failed", LONG).ok();
    let life = ["Created", "Scheduled", "Pulled", "Started", "Failed"];
    check(&cluster, "sandbox/fails", &life);

    // As people read it: everything that is known, then what has happened, a line each.
    let told = cluster.run("describe sandbox fails").ok();
    let (known, happened) = told.split_once("\nevents:\n").expect("both parts");
    for part in [
        "id: fails",
        "phase: Failed",
        "reason: ContainerExited",
        "exit_code: 3",
    ] {
        assert!(known.contains(part), "{part} in {told}");
    }
    let mut lines = happened.lines();
    let head = lines.next().expect("a head");
    assert!(head.starts_with("LAST-SEEN"), "{told}");
    let listed: Vec<&str> = lines.filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(listed, life, "{told}");
    assert!(happened.contains("exit"), "{told}");

    // Of all, or by label.
    let nowhere = "node_selector: {nowhere: 'true'}";
    cluster.apply(&manifest("waits", "true", nowhere), &[]).ok();
    // Why it waits is told once the scheduler has looked at it.
    let unschedulable = ("sandbox/waits".to_owned(), "Unschedulable".to_owned());
    let begun = Instant::now();
    while !reasons(&cluster, &["sandbox/waits"]).contains(&unschedulable) {
        assert!(begun.elapsed() < LONG, "nobody says why it waits");
    }
    let all = reasons(&cluster, &[]);
    assert!(all.contains(&unschedulable), "{all:?}");
    let agent = ("node/agent-1".to_owned(), "Registered".to_owned());
    assert!(all.contains(&agent), "{all:?}");
    let labelled = reasons(&cluster, &["-l", "told=yes"]);
    assert!(
        labelled.iter().all(|(object, _)| object == "sandbox/fails"),
        "{labelled:?}"
    );
    assert_eq!(labelled.len(), life.len());

    // It goes with its object.
    cluster.run("delete sandbox fails --wait").ok();
    cluster
        .run("describe sandbox fails")
        .fails(1, "sandbox fails is not there");
    cluster
        .run("events sandbox/fails")
        .fails(1, "sandbox fails is not there");
}

#[test]
fn node_tells_that_it_was_cordoned_and_lost_its_agent_also_under_the_next_leader() {
    let times = ["--replica-arg=--heartbeat=300ms", "--replica-arg=--node-grace=1s"];
    let cluster = Cluster::up(1, &times);
    cluster.run("cordon agent-1").ok();
    cluster.run("uncordon agent-1").ok();
    cluster.run("dev pause agent-1").ok();
    cluster.wait("node/agent-1", "state=NotReady", LONG).ok();
    cluster.run("dev kill leader").ok();
    cluster.run("dev resume agent-1").ok();
    cluster.wait("node/agent-1", "state=Ready", LONG).ok();
    check(
        &cluster,
        "node/agent-1",
        &["Registered", "Cordoned", "Uncordoned", "NotReady", "Ready"],
    );
    let told = cluster.run("describe node/agent-1").ok();
    let (known, happened) = told.split_once("\nevents:\n").expect("both parts");
    assert!(known.contains("state: Ready"), "{told}");
    assert!(happened.contains("its agent is heard again"), "{told}");
}

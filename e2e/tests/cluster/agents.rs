//! Agents that die, come back, or are lost.

use super::{LONG, await_log, manifest, traces_of_nothing};
use e2e::cluster::Cluster;
use e2e::traces::Traces;

#[test]
fn killed_agent_finds_its_sandboxes_again() {
    let cluster = Cluster::up(1, &[]);
    let script = "i=0; while true; do i=$((i+1)); echo beat $i; sleep 0.1; done";
    cluster.apply(&manifest("steady", script, ""), &["--wait"]).ok();
    cluster
        .apply(&manifest("ends", "sleep 2; exit 5", "runtime: runc"), &["--wait"])
        .ok();
    let started = cluster.get("sandbox", "steady")["status"]["containers"][0]["started_at"].clone();
    let before = Traces::of(&cluster, "agent-1");
    cluster.run("dev kill agent-1").ok();
    let without = Traces::of(&cluster, "agent-1");
    assert_eq!(without.processes, before.processes, "monitors outlive the agent");
    // Deleted, made and ended while nobody is there to see it.
    cluster.apply(&manifest("made", "sleep 600", ""), &[]).ok();
    std::thread::sleep(std::time::Duration::from_secs(3));
    cluster.run("dev restart agent-1").ok();
    cluster.wait("sandbox/made", "phase=Running", LONG).ok();
    cluster.wait("sandbox/ends", "phase=Failed", LONG).ok();
    let ended = cluster.get("sandbox", "ends");
    assert_eq!(ended["status"]["containers"][0]["exit_code"], 5, "{ended:#}");
    let steady = cluster.get("sandbox", "steady");
    assert_eq!(steady["status"]["phase"], "Running", "{steady:#}");
    assert_eq!(
        steady["status"]["containers"][0]["started_at"], started,
        "{steady:#}"
    );
    await_log(&cluster, "steady", "beat 40");
    let all = cluster.sbxctl(&["logs", "steady", "--tail", "20"]).ok();
    let beats: Vec<u32> = all
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(beats.windows(2).all(|pair| pair[1] == pair[0] + 1), "{beats:?}");
}

#[test]
fn sandbox_deleted_while_its_agent_is_dead_is_gone_once_it_is_back() {
    let cluster = Cluster::up(1, &[]);
    let before = traces_of_nothing(&cluster, "agent-1");
    cluster
        .apply(include_str!("../../../examples/web.yaml"), &["--wait"])
        .ok();
    cluster.run("dev kill agent-1").ok();
    cluster.run("delete sandbox web").ok();
    assert_eq!(cluster.get("sandbox", "web")["status"]["phase"], "Deleting");
    cluster.run("dev restart agent-1").ok();
    cluster.wait("sandbox/web", "deleted", LONG).ok();
    assert_eq!(Traces::of(&cluster, "agent-1"), before);
}

/// The contract's times, shortened.
const SHORT: [&str; 3] = [
    "--replica-arg=--heartbeat=200ms",
    "--replica-arg=--node-grace=2s",
    "--replica-arg=--node-lease=5s",
];

#[test]
fn lost_node_fails_its_sandboxes_or_hands_them_over_and_never_runs_two() {
    let cluster = Cluster::up(2, &SHORT);
    let selector = "node_selector: {}";
    cluster
        .apply(&manifest("stays", "sleep 600", selector), &["--wait"])
        .ok();
    cluster
        .apply(
            &manifest("moves", "sleep 600", "on_node_loss: reschedule"),
            &["--wait"],
        )
        .ok();
    for id in ["stays", "moves"] {
        let node = cluster.get("sandbox", id)["status"]["node_name"].clone();
        assert!(node.is_string(), "{id} is placed");
    }
    let home = cluster.get("sandbox", "moves")["status"]["node_name"]
        .as_str()
        .expect("a node")
        .to_owned();
    cluster.run(&format!("dev partition {home}")).ok();
    cluster.wait(&format!("node/{home}"), "state=NotReady", LONG).ok();
    cluster.wait(&format!("node/{home}"), "state=Lost", LONG).ok();
    // By then the agent that is cut off has ended them, by its own clock.
    let traces = Traces::of(&cluster, &home);
    assert!(traces.processes.is_empty(), "{traces:#?}");
    cluster.wait("sandbox/moves", "phase=Running", LONG).ok();
    let moved = cluster.get("sandbox", "moves");
    assert_ne!(moved["status"]["node_name"], home.as_str(), "{moved:#}");
    let stays = cluster.get("sandbox", "stays");
    if stays["status"]["node_name"] == home.as_str() {
        assert_eq!(stays["status"]["reason"], "NodeLost", "{stays:#}");
    } else {
        assert_eq!(stays["status"]["phase"], "Running", "{stays:#}");
    }
    cluster.run("dev heal").ok();
    cluster.wait(&format!("node/{home}"), "state=Ready", LONG).ok();
    assert_eq!(
        cluster.get("sandbox", "moves")["status"]["node_name"],
        moved["status"]["node_name"]
    );
}

#[test]
fn drained_node_is_empty_and_its_sandboxes_have_moved_or_had_their_time() {
    let cluster = Cluster::up(2, &[]);
    let before = traces_of_nothing(&cluster, "agent-1");
    cluster
        .apply(
            &manifest("moves", "sleep 600", "on_node_loss: reschedule"),
            &["--wait"],
        )
        .ok();
    let home = cluster.get("sandbox", "moves")["status"]["node_name"]
        .as_str()
        .expect("a node")
        .to_owned();
    let other = if home == "agent-1" { "agent-2" } else { "agent-1" };
    cluster.run(&format!("cordon {other}")).ok();
    cluster
        .apply(&manifest("stays", "sleep 600", ""), &["--wait"])
        .ok();
    assert_eq!(
        cluster.get("sandbox", "stays")["status"]["node_name"],
        home.as_str()
    );
    cluster.run(&format!("uncordon {other}")).ok();

    let told = cluster.run(&format!("drain {home} --deadline 1s")).ok();
    assert!(told.contains(&format!("node/{home} drained")), "{told}");
    let node = cluster.get("node", &home);
    assert_eq!(node["unschedulable"], true, "{node:#}");
    cluster.wait("sandbox/moves", "phase=Running", LONG).ok();
    let moved = cluster.get("sandbox", "moves");
    assert_eq!(moved["status"]["node_name"], other, "{moved:#}");
    assert_eq!(
        moved["status"]["earlier_placements"][0]["node_name"],
        home.as_str(),
        "{moved:#}"
    );
    let stays = cluster.get("sandbox", "stays");
    assert_eq!(stays["status"]["reason"], "NodeLost", "{stays:#}");
    cluster.run("delete sandbox moves stays --wait").ok();
    assert_eq!(Traces::of(&cluster, "agent-1"), before);
    cluster.run("drain nobody").fails(1, "node nobody is not there");
}

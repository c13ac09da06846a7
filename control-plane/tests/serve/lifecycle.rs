//! What the leader does of its own accord.

use crate::agent::{Agent, running};
use crate::cluster::Cluster;
use crate::user::*;
use control_plane::config::Timings;
use proto::wire::{Kind, NodeState, Phase, Reason};
use std::time::Duration;

/// Short, and yet far above what a busy machine delays.
fn short() -> Timings {
    Timings {
        heartbeat: Duration::from_millis(100),
        node_grace: Duration::from_millis(600),
        node_lease: Duration::from_millis(1_800),
        ended_retention: Duration::from_millis(300),
        ..Timings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sandbox_without_a_node_says_why_and_is_placed_when_one_comes() {
    let cluster = Cluster::start(1).await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    apply(&cluster, sandbox("s", "")).await;
    let why = loop {
        let waiting = watch.until_phase(Phase::Pending).await.status.expect("a status");
        if !waiting.last_error.is_empty() {
            break waiting.last_error;
        }
    };
    assert!(why.contains("nodes fit"), "{why}");
    let mut agent = Agent::join(&cluster, "n").await;
    agent.told_to_run("s").await;
    let placed = watch
        .until_phase(Phase::Scheduled)
        .await
        .status
        .expect("a status");
    assert_eq!(placed.last_error, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn sandbox_goes_when_its_time_is_over() {
    let cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    apply(&cluster, sandbox("s", "ttl_seconds: 1,")).await;
    let desired = agent.told_to_run("s").await;
    assert!(
        (1..=1_000).contains(&desired.ttl_remaining_ms),
        "{}",
        desired.ttl_remaining_ms
    );
    watch.until_phase(Phase::Deleting).await;
    agent.told_to_remove(desired.uid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_sandbox_goes_after_its_retention() {
    let cluster = Cluster::with(1, short()).await;
    let mut agent = Agent::join(&cluster, "n").await;
    let mut watch = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    apply(&cluster, sandbox("s", "")).await;
    let mut ended = running(&agent.told_to_run("s").await);
    ended.phase = Phase::Succeeded.into();
    agent.report(ended).await;
    watch.until_phase(Phase::Succeeded).await;
    watch.until_phase(Phase::Deleting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_node_is_not_ready_then_lost_and_ready_when_heard_again() {
    let cluster = Cluster::with(1, short()).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("s", "")).await;
    agent.told_to_run("s").await;
    let mut node = Watch::of(&cluster, 0, Kind::Node, "n").await;
    node.until_state(NodeState::Ready).await;
    let silent = node.until_state(NodeState::NotReady).await;
    assert!(
        silent.last_error.contains("no heartbeat"),
        "{}",
        silent.last_error
    );
    agent.heartbeat(1).await;
    node.until_state(NodeState::Ready).await;
    node.until_state(NodeState::Lost).await;
    let mut sandbox = Watch::of(&cluster, 0, Kind::Sandbox, "s").await;
    let failed = sandbox.until_phase(Phase::Failed).await.status.expect("a status");
    assert_eq!(failed.reason(), Reason::NodeLost);
    agent.heartbeat(2).await;
    node.until_state(NodeState::Ready).await;
}

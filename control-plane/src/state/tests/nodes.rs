use super::*;
use proto::status::Reason;
use wire::Outcome;
use wire::rejected::Code;

#[test]
fn manifest_may_come_before_or_after_the_agent() {
    let mut world = World::with_nodes(&["after"]);
    world
        .run(node("before", "region: eu", ""))
        .outcome(Outcome::Created);
    assert_eq!(world.node_state("before"), NodeState::Unknown);
    world.run(register("before")).accepted();
    assert_eq!(world.node_state("before"), NodeState::Ready);
    world
        .run(node("after", "region: eu, zone: b", ""))
        .outcome(Outcome::Configured);
    world
        .run(node("after", "region: eu, zone: b", ""))
        .outcome(Outcome::Unchanged);
    let after = world.state.node(&"after".parse().unwrap()).cloned().unwrap();
    assert_eq!(after.effective_label("region"), Some("eu"));
    assert_eq!(
        after.effective_label("zone"),
        Some("b"),
        "the manifest's label wins"
    );
    world.check_reload();
}

#[test]
fn registering_again_with_the_same_report_changes_nothing() {
    let mut world = World::with_nodes(&["n"]);
    world.run(register("n")).accepted();
    assert!(world.changes.is_empty());
}

#[test]
fn lost_node_fails_its_sandboxes_or_hands_them_over() {
    let mut world = World::with_nodes(&["n", "m"]);
    let stays = world.placed("stays", "n", "");
    let moves = world.placed(
        "moves",
        "n",
        "on_node_loss: reschedule, ttl_seconds: 600"
            .replace(", ", "\n  ")
            .as_str(),
    );
    world.placed("deleted", "n", "");
    let ended = world.placed("ended", "n", "");
    world
        .run(report("n", "ended", ended, wire::Phase::Succeeded))
        .accepted();
    world
        .run(delete(wire::Kind::Sandbox, "deleted", false))
        .accepted();
    let expires = world.sandbox("moves").status.expire_at;
    world.run(set_state("n", wire::NodeState::NotReady)).accepted();
    assert_eq!(world.phase("stays"), Phase::Scheduled);
    world.run(set_state("n", wire::NodeState::Lost)).accepted();

    assert_eq!(world.sandbox("stays").uid.0, stays);
    assert_eq!(world.sandbox("stays").status.reason, Some(Reason::NodeLost));
    assert_eq!(world.phase("moves"), Phase::Pending);
    assert!(
        world.sandbox("moves").uid.0 > moves,
        "what the old node has is never taken for the new one"
    );
    assert_eq!(world.sandbox("moves").status.expire_at, expires);
    assert!(!world.has("deleted"), "nobody will clear it away");
    assert_eq!(world.phase("ended"), Phase::Succeeded);
    assert_eq!(world.state.usage(&"n".parse().unwrap()), Usage::default());
    world.check_reload();

    // Back again: late words of the old copy count for nothing.
    world.run(register("n")).accepted();
    world
        .run(report("n", "moves", moves, wire::Phase::Running))
        .accepted();
    world
        .run(report("n", "stays", stays, wire::Phase::Running))
        .accepted();
    assert_eq!(world.phase("moves"), Phase::Pending);
    assert_eq!(world.phase("stays"), Phase::Failed);
}

#[test]
fn deleting_a_failed_sandbox_of_a_lost_node_waits_for_nobody() {
    let mut world = World::with_nodes(&["n"]);
    world.placed("a", "n", "");
    world.run(set_state("n", wire::NodeState::Lost)).accepted();
    world.run(delete(wire::Kind::Sandbox, "a", false)).accepted();
    assert!(!world.has("a"));
}

#[test]
fn node_with_sandboxes_is_deleted_only_by_force_and_nothing_is_started_elsewhere() {
    let mut world = World::with_nodes(&["n"]);
    world.placed("a", "n", "on_node_loss: reschedule");
    world
        .run(delete(wire::Kind::Node, "n", false))
        .rejected(Code::Conflict, "1 sandboxes are placed");
    world
        .run(delete(wire::Kind::Node, "n", true))
        .outcome(Outcome::Deleted);
    assert_eq!(world.phase("a"), Phase::Failed);
    assert_eq!(world.sandbox("a").status.reason, Some(Reason::NodeLost));
    world
        .run(delete(wire::Kind::Node, "n", true))
        .rejected(Code::NotFound, "node n");
    world.run(delete(wire::Kind::Sandbox, "a", false)).accepted();
    assert!(!world.has("a"));
    world.check_reload();
}

/// An agent that was cut off for longer than its lease comes back before anybody has called its node lost.
#[test]
fn sandbox_that_its_node_ended_for_the_lease_is_handed_over_as_from_a_lost_node() {
    let mut world = World::with_nodes(&["n"]);
    let mut end = |id: &str, more: &str| {
        let uid = world.placed(id, "n", more);
        let Op::ReportStatus(mut told) = report("n", id, uid, wire::Phase::Failed) else {
            panic!("a report")
        };
        told.reports[0].reason = wire::Reason::NodeLost.into();
        told.reports[0].message = "lease".to_owned();
        world.run(Op::ReportStatus(told)).accepted();
        world.check_reload();
        (uid, world.sandbox(id))
    };
    let (uid, moves) = end("moves", "on_node_loss: reschedule");
    assert_eq!(moves.status.phase, Phase::Pending);
    assert_eq!(moves.status.last_error, "lease");
    assert!(moves.uid.0 > uid);
    let (uid, stays) = end("stays", "");
    assert_eq!(stays.status.reason, Some(Reason::NodeLost));
    assert_eq!((stays.uid.0, stays.status.phase), (uid, Phase::Failed));
}

#[test]
fn node_is_unknown_until_its_agent_registers_and_never_again() {
    let mut world = World::with_nodes(&["n"]);
    world.run(node("announced", "", "")).accepted();
    use wire::NodeState::{Lost, Ready, Unknown};
    for (id, state) in [("announced", Ready), ("announced", Lost), ("n", Unknown)] {
        let before = world.node_state(id);
        world
            .run(set_state(id, state))
            .rejected(Code::Conflict, "until its agent registers");
        assert_eq!(world.node_state(id), before);
    }
}

#[test]
fn state_of_an_unknown_node_is_refused() {
    let mut world = World::with_nodes(&[]);
    world
        .run(set_state("n", wire::NodeState::Lost))
        .rejected(Code::NotFound, "node n");
}

pub(super) fn schedule(id: &str, unschedulable: bool, drain_ms: Option<u64>) -> Op {
    Op::ScheduleNode(wire::ScheduleNode {
        node_id: id.to_owned(),
        unschedulable,
        drain_ms,
    })
}

pub(super) fn end_drain(id: &str) -> Op {
    Op::EndDrain(wire::EndDrain {
        node_id: id.to_owned(),
    })
}

#[test]
fn drain_moves_what_may_move_and_gives_the_others_until_its_deadline() {
    let mut world = World::with_nodes(&["n", "m"]);
    let old = world.placed("moves", "n", "on_node_loss: reschedule");
    world.placed("stays", "n", "");
    world.placed("elsewhere", "m", "");
    world
        .run(schedule("n", true, Some(60_000)))
        .outcome(Outcome::Configured);
    let moves = world.sandbox("moves");
    assert_eq!(moves.status.phase, Phase::Pending);
    world
        .run(place(moves.uid.0, "m", &[]))
        .rejected(Code::Stale, "is not gone yet");
    world
        .run(report("n", "moves", old, wire::Phase::Deleting))
        .accepted();
    world
        .run(place(moves.uid.0, "n", &[]))
        .rejected(Code::Stale, "unschedulable");
    world.run(place(moves.uid.0, "m", &[])).accepted();
    assert_eq!(world.phase("stays"), Phase::Scheduled);
    world.check_reload();
    world.pass(Duration::from_millis(59_999));
    world
        .run(end_drain("n"))
        .rejected(Code::Stale, "no drain of node n is over");
    world.pass(Duration::from_millis(1));
    world.run(end_drain("n")).accepted();
    let stays = world.sandbox("stays");
    assert_eq!(
        (stays.status.phase, stays.status.reason),
        (Phase::Failed, Some(Reason::NodeLost))
    );
    assert!(
        stays.status.last_error.contains("was drained"),
        "{:?}",
        stays.status
    );
    assert_eq!(world.phase("elsewhere"), Phase::Scheduled);
    let node = world.state.node(&"n".parse().unwrap()).cloned().unwrap();
    assert!(node.spec.unschedulable, "it stays out of use");
    assert_eq!(node.drain_until, None);
    world.check_reload();
}

#[test]
fn drain_is_called_off_by_whoever_makes_the_node_schedulable() {
    let uncordoned = schedule("n", false, None);
    let cordoned = schedule("n", true, None);
    for call_off in [uncordoned, cordoned, node("n", "", "")] {
        let mut world = World::with_nodes(&["n"]);
        world.placed("stays", "n", "");
        world.run(schedule("n", true, Some(1_000))).accepted();
        world.run(call_off).outcome(Outcome::Configured);
        world.pass(Duration::from_secs(2));
        world.run(end_drain("n")).rejected(Code::Stale, "no drain");
        assert_eq!(world.phase("stays"), Phase::Scheduled);
    }
    let mut world = World::with_nodes(&["n"]);
    world.run(schedule("n", false, None)).outcome(Outcome::Unchanged);
    world
        .run(schedule("m", true, None))
        .rejected(Code::NotFound, "node m");
}

use super::*;
use proto::status::Reason;
use wire::Outcome;
use wire::Protocol::{Tcp, Udp};
use wire::rejected::Code;

#[test]
fn unchanged_manifest_changes_nothing() {
    let mut world = World::with_nodes(&[]);
    world.run(sandbox("a", "")).outcome(Outcome::Created);
    let version = world.sandbox("a").resource_version;
    world.run(sandbox("a", "")).outcome(Outcome::Unchanged);
    assert_eq!(world.sandbox("a").resource_version, version);
    assert!(world.changes.is_empty());
    world.check_reload();
}

#[test]
fn ttl_and_labels_can_be_changed_and_move_the_end() {
    let mut world = World::with_nodes(&[]);
    world
        .run(sandbox("a", "ttl_seconds: 60"))
        .outcome(Outcome::Created);
    let created = world.sandbox("a").created_at;
    assert_eq!(
        world.sandbox("a").status.expire_at,
        Some(created.plus(Duration::from_secs(60)))
    );
    world.pass(Duration::from_secs(10));
    world
        .run(sandbox("a", "ttl_seconds: 90"))
        .outcome(Outcome::Configured);
    assert_eq!(
        world.sandbox("a").status.expire_at,
        Some(created.plus(Duration::from_secs(90)))
    );
    world.run(sandbox("a", "")).outcome(Outcome::Configured);
    assert_eq!(world.sandbox("a").status.expire_at, None);
    world.check_reload();
}

#[track_caller]
fn check_immutable(before: &str, after: &str, field: &str) {
    let mut world = World::with_nodes(&[]);
    world.run(sandbox("a", before)).accepted();
    let fields = world
        .run(sandbox("a", after))
        .rejected(Code::Conflict, "another spec");
    assert_eq!(fields, [field]);
}

#[test]
fn every_other_field_is_immutable_and_named() {
    check_immutable("egress: false", "egress: true", "spec.egress");
    check_immutable("", "egress_allow: ['1.1.1.1/32']", "spec.egress_allow");
    check_immutable("", "node_selector: {a: b}", "spec.node_selector");
    check_immutable("", "runtime: runc", "spec.runtime");
    check_immutable("", "priority: 1", "spec.priority");
    check_immutable("", "on_node_loss: reschedule", "spec.on_node_loss");
    check_immutable("", "ports: [{container_port: 1}]", "spec.ports");
    check_immutable("", "volumes: [{name: v, ephemeral_storage: 1Mi}]", "spec.volumes");
}

#[test]
fn changed_field_of_a_container_is_named_with_its_place() {
    let mut world = World::with_nodes(&[]);
    world.run(sandbox("a", "")).accepted();
    let changed = manifest("a", "")
        .replace("500m", "501m")
        .replace("image: busybox", "image: alpine");
    let fields = world
        .run(apply(&changed, false))
        .rejected(Code::Conflict, "sandbox a");
    assert_eq!(
        fields,
        ["spec.containers[0].image", "spec.containers[0].resource"]
    );
}

#[test]
fn replaced_sandbox_is_another_one_while_its_node_clears_the_old_one_away() {
    let mut world = World::with_nodes(&["n"]);
    let old = world.placed("a", "n", "");
    world
        .run(replacing("a", "egress: true"))
        .outcome(Outcome::Replaced);
    let new = world.sandbox("a");
    assert!(new.uid.0 > old);
    assert_eq!(new.status.phase, Phase::Pending);
    let held: Vec<_> = world
        .state
        .sandboxes_on(&"n".parse().unwrap())
        .map(|s| s.status.phase)
        .collect();
    assert_eq!(held, [Phase::Deleting]);
    assert_eq!(world.state.sandboxes().count(), 1, "users see the new one");
    assert!(matches!(world.changes[0], Change::Sandbox { .. }));
    world.check_reload();
    world.run(report("n", "a", old, wire::Phase::Deleting)).accepted();
    assert!(matches!(
        world.changes[..],
        [Change::Sandbox {
            replaced: true,
            after: None,
            ..
        }]
    ));
    assert_eq!(world.state.sandboxes_on(&"n".parse().unwrap()).count(), 0);
    world.check_reload();
}

#[test]
fn replacement_is_placed_only_once_the_old_one_is_gone() {
    let mut world = World::with_nodes(&["n", "m"]);
    let old = world.placed("a", "n", "");
    world.run(replacing("a", "egress: true")).accepted();
    let new = world.sandbox("a").uid.0;
    world
        .run(place(new, "m", &[]))
        .rejected(Code::Stale, "the one that it replaces is not gone yet");
    world.run(report("n", "a", old, wire::Phase::Deleting)).accepted();
    world.run(place(new, "m", &[])).accepted();
}

#[test]
fn failure_without_a_reason_is_the_agents_and_success_has_none() {
    let mut world = World::with_nodes(&["n"]);
    let uid = world.placed("a", "n", "");
    let told = |phase: wire::Phase, reason: wire::Reason, id: &str, uid| match report("n", id, uid, phase) {
        Op::ReportStatus(mut told) => {
            told.reports[0].reason = reason.into();
            Op::ReportStatus(told)
        }
        other => other,
    };
    world
        .run(told(wire::Phase::Failed, wire::Reason::Unspecified, "a", uid))
        .accepted();
    assert_eq!(world.sandbox("a").status.reason, Some(Reason::AgentError));
    let uid = world.placed("b", "n", "");
    world
        .run(told(wire::Phase::Succeeded, wire::Reason::OomKilled, "b", uid))
        .accepted();
    assert_eq!(world.sandbox("b").status.reason, None);
}

#[test]
fn deleting_what_had_replaced_another_shows_the_older_one_until_it_is_gone() {
    let mut world = World::with_nodes(&["n"]);
    let old = world.placed("a", "n", "");
    world.run(replacing("a", "egress: true")).accepted();
    world
        .run(delete(wire::Kind::Sandbox, "a", false))
        .outcome(Outcome::Deleted);
    assert_eq!(world.sandbox("a").uid.0, old);
    assert_eq!(world.phase("a"), Phase::Deleting);
    world.run(report("n", "a", old, wire::Phase::Deleting)).accepted();
    assert!(!world.has("a"));
    world.check_reload();
}

#[test]
fn delete_goes_at_once_where_no_node_holds_it_and_is_idempotent_while_one_does() {
    let mut world = World::with_nodes(&["n"]);
    world
        .run(delete(wire::Kind::Sandbox, "a", false))
        .rejected(Code::NotFound, "sandbox a");
    world.run(sandbox("a", "")).accepted();
    world
        .run(delete(wire::Kind::Sandbox, "a", false))
        .outcome(Outcome::Deleted);
    assert!(!world.has("a"));
    let uid = world.placed("b", "n", "");
    for _ in 0..2 {
        world
            .run(delete(wire::Kind::Sandbox, "b", false))
            .outcome(Outcome::Deleted);
        assert_eq!(world.phase("b"), Phase::Deleting);
    }
    world
        .run(sandbox("b", ""))
        .rejected(Code::Conflict, "being deleted");
    world.run(report("n", "b", uid, wire::Phase::Deleting)).accepted();
    assert!(!world.has("b"));
    world.run(sandbox("b", "")).outcome(Outcome::Created);
    assert!(world.sandbox("b").uid.0 > uid, "a uid never comes again");
}

#[test]
fn placement_takes_room_and_ports_and_is_refused_without() {
    let mut world = World::with_nodes(&["n"]);
    let ports = "ports: [{container_port: 80}, {container_port: 80, protocol: udp}]";
    world.run(sandbox("a", ports)).accepted();
    let a = world.sandbox("a").uid.0;
    let stale = Code::Stale;
    world.run(place(a, "m", &[])).rejected(stale, "not there");
    world.run(place(a, "n", &[])).rejected(stale, "ports are others");
    world
        .run(place(a, "n", &[(9_999, 80, Tcp), (10_000, 80, Udp)]))
        .rejected(stale, "9999");
    world
        .run(place(a, "n", &[(32_768, 80, Tcp), (10_000, 80, Udp)]))
        .rejected(stale, "32768");
    // Tcp and udp may share a number.
    world
        .run(place(a, "n", &[(10_000, 80, Tcp), (10_000, 80, Udp)]))
        .accepted();
    world
        .run(place(a, "n", &[(10_000, 80, Tcp), (10_000, 80, Udp)]))
        .rejected(stale, "waits");
    let usage = world.state.usage(&"n".parse().unwrap());
    assert_eq!(
        (usage.cpu, usage.sandboxes, usage.ports.len()),
        (MilliCpu(500), 1, 2)
    );
    world.run(sandbox("b", "ports: [{container_port: 1}]")).accepted();
    let b = world.sandbox("b").uid.0;
    world
        .run(place(b, "n", &[(10_000, 1, Tcp)]))
        .rejected(stale, "10000 is not free");
    // What has ended takes nothing.
    world.run(report("n", "a", a, wire::Phase::Failed)).accepted();
    world.pass(PORT_REST);
    world.run(place(b, "n", &[(10_000, 1, Tcp)])).accepted();
    world.check_reload();
}

#[track_caller]
fn check_unfit(prepare: Op, more: &str, why: &str) {
    let mut world = World::with_nodes(&["n"]);
    world.run(prepare).accepted();
    world.run(sandbox("a", more)).accepted();
    let uid = world.sandbox("a").uid.0;
    world.run(place(uid, "n", &[])).rejected(Code::Stale, why);
    assert_eq!(world.phase("a"), Phase::Pending);
}

#[test]
fn placement_is_checked_against_the_node_as_it_is_now() {
    let nothing = || register("n");
    check_unfit(set_state("n", wire::NodeState::NotReady), "", "NotReady");
    check_unfit(set_state("n", wire::NodeState::Lost), "", "Lost");
    check_unfit(node("n", "", "unschedulable: true"), "", "unschedulable");
    check_unfit(nothing(), "node_selector: {zone: b}", "selector zone=b");
    check_unfit(
        node("n", "zone: b", ""),
        "node_selector: {zone: a}",
        "selector zone=a",
    );
    check_unfit(nothing(), "runtime: runsc", "without runtime runsc");
    check_unfit(
        nothing(),
        "volumes: [{name: v, ephemeral_storage: 5Gi}]",
        "insufficient memory",
    );
}

#[test]
fn eight_half_cores_fit_on_four_cores_and_no_ninth() {
    let mut world = World::with_nodes(&["n"]);
    for i in 0..8 {
        world.placed(&format!("s{i}"), "n", "");
    }
    world.run(sandbox("s8", "")).accepted();
    let uid = world.sandbox("s8").uid.0;
    world
        .run(place(uid, "n", &[]))
        .rejected(Code::Stale, "insufficient cpu (need 500m, free 0)");
}

#[test]
fn of_several_placements_those_that_hold_take_effect() {
    let mut world = World::with_nodes(&["n"]);
    world.run(sandbox("a", "")).accepted();
    let uid = world.sandbox("a").uid.0;
    let placements = vec![placement(77, "n", &[]), placement(uid, "n", &[])];
    world.run(Op::Place(wire::Place { placements })).accepted();
    assert_eq!(world.phase("a"), Phase::Scheduled);
}

/// What a report makes of a phase.
#[track_caller]
fn check_report(reports: &[wire::Phase], expected: Phase) {
    let mut world = World::with_nodes(&["n"]);
    let uid = world.placed("a", "n", "");
    for phase in reports {
        world.run(report("n", "a", uid, *phase)).accepted();
    }
    assert_eq!(world.phase("a"), expected, "after {reports:?}");
    assert_eq!(world.sandbox("a").status.ended_at.is_some(), expected.has_ended());
    world.check_reload();
}

#[test]
fn reports_move_a_sandbox_forward_only() {
    use wire::Phase::{Failed, Pending, Running, Scheduled, Succeeded};
    check_report(&[Scheduled], Phase::Scheduled);
    check_report(&[Running], Phase::Running);
    check_report(&[Running, Scheduled], Phase::Running);
    check_report(&[Running, Pending], Phase::Running);
    check_report(&[Running, Succeeded], Phase::Succeeded);
    check_report(&[Failed, Running], Phase::Failed);
    check_report(&[Failed, Succeeded], Phase::Failed);
    // The node has lost it.
    check_report(&[Running, wire::Phase::Deleting], Phase::Failed);
}

#[test]
fn reports_of_others_change_nothing() {
    let mut world = World::with_nodes(&["n", "m"]);
    let uid = world.placed("a", "n", "");
    for (node, id, uid) in [("m", "a", uid), ("n", "b", uid), ("n", "a", uid + 1)] {
        world.run(report(node, id, uid, wire::Phase::Failed)).accepted();
        assert!(world.changes.is_empty());
    }
    world.run(report("n", "a", uid, wire::Phase::Running)).accepted();
    assert_eq!(world.changes.len(), 1);
    world.run(report("n", "a", uid, wire::Phase::Running)).accepted();
    assert!(world.changes.is_empty(), "nothing new was told");
}

#[test]
fn expiry_is_decided_by_the_entrys_time() {
    let mut world = World::with_nodes(&["n"]);
    let hour = Duration::from_secs(3_600);
    let uid = world.placed("a", "n", "ttl_seconds: 60");
    world.pass(Duration::from_secs(59));
    world.run(expire(&[uid], hour)).accepted();
    assert_eq!(world.phase("a"), Phase::Scheduled);
    world.pass(Duration::from_secs(1));
    world.run(expire(&[uid], hour)).accepted();
    assert_eq!(world.phase("a"), Phase::Deleting);
    world.run(expire(&[uid], hour)).accepted();
    assert!(world.changes.is_empty());
}

#[test]
fn ended_sandbox_outlives_its_ttl_until_its_retention_is_over() {
    let mut world = World::with_nodes(&["n"]);
    let hour = Duration::from_secs(3_600);
    let uid = world.placed("a", "n", "ttl_seconds: 60");
    world
        .run(report("n", "a", uid, wire::Phase::Succeeded))
        .accepted();
    world.pass(Duration::from_secs(3_599));
    world.run(expire(&[uid], hour)).accepted();
    assert_eq!(world.phase("a"), Phase::Succeeded);
    world.pass(Duration::from_secs(1));
    world.run(expire(&[uid], hour)).accepted();
    assert_eq!(world.phase("a"), Phase::Deleting);
}

#[test]
fn time_never_goes_back() {
    let mut world = World::with_nodes(&["n"]);
    world.placed("a", "n", "");
    let created = world.sandbox("a").created_at;
    world.now_ms -= 500_000;
    world.run(sandbox("b", "")).accepted();
    assert_eq!(world.sandbox("b").created_at, created);
}

#[test]
fn explanation_is_kept_while_it_waits_and_gone_once_it_is_placed() {
    let mut world = World::with_nodes(&["n"]);
    world.run(sandbox("a", "")).accepted();
    let uid = world.sandbox("a").uid.0;
    let explain = |message: &str| {
        Op::ExplainPending(wire::ExplainPending {
            explanations: vec![wire::Explanation {
                sandbox_id: String::new(),
                uid,
                message: message.to_owned(),
            }],
        })
    };
    world.run(explain("no room")).accepted();
    assert_eq!(world.sandbox("a").status.last_error, "no room");
    world.run(explain("no room")).accepted();
    assert!(world.changes.is_empty());
    world.run(place(uid, "n", &[])).accepted();
    assert_eq!(world.sandbox("a").status.last_error, "");
    world.run(explain("late")).accepted();
    assert!(world.changes.is_empty());
}

#[test]
fn write_that_expects_another_version_is_refused() {
    let mut world = World::with_nodes(&[]);
    let with = |more: &str, version: u64| match sandbox("a", more) {
        Op::Apply(mut apply) => {
            apply.expected_version = Some(version);
            Op::Apply(apply)
        }
        other => other,
    };
    world
        .run(with("", 7))
        .rejected(Code::Stale, "has changed meanwhile");
    world.run(with("", 0)).outcome(Outcome::Created);
    let version = world.sandbox("a").resource_version;
    world
        .run(with("ttl_seconds: 5", 0))
        .rejected(Code::Conflict, "is there already");
    world
        .run(with("ttl_seconds: 5", version + 1))
        .rejected(Code::Stale, "has changed meanwhile");
    world
        .run(with("ttl_seconds: 5", version))
        .outcome(Outcome::Configured);
}

#[test]
fn lost_by_its_node_is_an_agents_error_with_a_message() {
    let mut world = World::with_nodes(&["n"]);
    let uid = world.placed("a", "n", "");
    world.run(report("n", "a", uid, wire::Phase::Deleting)).accepted();
    let status = &world.sandbox("a").status;
    assert_eq!(status.reason, Some(Reason::AgentError));
    assert!(status.last_error.contains("lost"), "{status:?}");
}

/// What an agent says that could not make it.
fn failure_of_the_node(world: &World, id: &str, node: &str, started: bool) -> Op {
    let Op::ReportStatus(mut told) = report(node, id, world.sandbox(id).uid.0, wire::Phase::Failed) else {
        panic!("a report")
    };
    told.reports[0].reason = wire::Reason::AgentError.into();
    told.reports[0].message = "no space left".to_owned();
    told.reports[0].containers = vec![wire::ContainerStatus {
        name: "main".to_owned(),
        state: wire::ContainerState::Waiting.into(),
        started_at_ms: u64::from(started),
        ..Default::default()
    }];
    Op::ReportStatus(told)
}

#[test]
fn failure_of_the_nodes_own_is_tried_elsewhere_up_to_three_placements() {
    let mut world = World::with_nodes(&["n", "m", "o"]);
    world.placed("a", "n", "");
    for (failed, next) in [("n", Some("m")), ("m", Some("o")), ("o", None)] {
        let uid = world.sandbox("a").uid.0;
        world
            .run(failure_of_the_node(&world, "a", failed, false))
            .accepted();
        world.check_reload();
        let Some(next) = next else { break };
        let waiting = world.sandbox("a");
        assert_eq!(waiting.status.phase, Phase::Pending);
        assert!(
            waiting.uid.0 > uid,
            "the old uid names what is still on the old node"
        );
        world
            .run(place(waiting.uid.0, next, &[]))
            .rejected(Code::Stale, "is not gone yet");
        world
            .run(report(failed, "a", uid, wire::Phase::Deleting))
            .accepted();
        world.run(place(waiting.uid.0, next, &[])).accepted();
    }
    let status = &world.sandbox("a").status;
    assert_eq!(
        (status.phase, status.reason),
        (Phase::Failed, Some(Reason::AgentError))
    );
    let earlier: Vec<&str> = status
        .earlier_placements
        .iter()
        .map(|p| p.node_name.as_str())
        .collect();
    assert_eq!(earlier, ["n", "m"]);
    assert_eq!(status.earlier_placements[0].message, "no space left");
}

#[test]
fn what_may_have_run_is_not_tried_again() {
    let mut world = World::with_nodes(&["n"]);
    world.placed("a", "n", "");
    world.run(failure_of_the_node(&world, "a", "n", true)).accepted();
    assert_eq!(world.phase("a"), Phase::Failed);
    let uid = world.placed("b", "n", "");
    world.run(report("n", "b", uid, wire::Phase::Running)).accepted();
    world.run(failure_of_the_node(&world, "b", "n", false)).accepted();
    assert_eq!(world.phase("b"), Phase::Failed);
    let uid = world.placed("c", "n", "");
    let Op::ReportStatus(mut told) = report("n", "c", uid, wire::Phase::Failed) else {
        panic!("a report")
    };
    told.reports[0].reason = wire::Reason::ImagePullFailed.into();
    world.run(Op::ReportStatus(told)).accepted();
    assert_eq!(world.phase("c"), Phase::Failed, "it is not the node's fault");
}

#[test]
fn conditions_tell_since_when_it_is_placed_and_ready() {
    let mut world = World::with_nodes(&["n"]);
    let check = |world: &World, expected: &[(&str, bool, &str)]| {
        let status = &world.sandbox("a").status;
        let told = status.conditions.iter();
        let told: Vec<_> = told
            .map(|c| (c.kind.as_str(), c.status, c.message.as_str()))
            .collect();
        assert_eq!(told, expected);
        let since = status.conditions.iter().map(|c| c.changed_at);
        since.collect::<Vec<_>>()
    };
    world.run(sandbox("a", "")).accepted();
    check(&world, &[]);
    let uid = world.sandbox("a").uid.0;
    world
        .run(Op::ExplainPending(wire::ExplainPending {
            explanations: vec![wire::Explanation {
                sandbox_id: String::new(),
                uid,
                message: "no room".to_owned(),
            }],
        }))
        .accepted();
    check(&world, &[("Scheduled", false, "no room")]);
    world.pass(Duration::from_secs(1));
    world.run(place(uid, "n", &[])).accepted();
    let placed = check(&world, &[("Scheduled", true, "")]);
    assert_eq!(placed, [world.state.now()]);
    world.pass(Duration::from_secs(1));
    world.run(report("n", "a", uid, wire::Phase::Running)).accepted();
    let running = check(&world, &[("Scheduled", true, ""), ("Ready", true, "")]);
    assert_eq!(running[0], placed[0], "it has not changed");
    world.run(report("n", "a", uid, wire::Phase::Deleting)).accepted();
    let lost = "the node has lost it, with all that it had";
    check(&world, &[("Scheduled", true, ""), ("Ready", false, lost)]);
    world.check_reload();
}

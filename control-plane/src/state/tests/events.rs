//! What is told of the lives of sandboxes and nodes.

use super::*;

fn reasons(events: &[proto::event::Event]) -> Vec<&str> {
    events.iter().map(|event| event.reason.as_str()).collect()
}

#[test]
fn life_of_a_sandbox_is_told_in_order() {
    let mut world = World::with_nodes(&["n"]);
    world.run(sandbox("a", "")).accepted();
    let uid = world.sandbox("a").uid.0;
    let explanation = |message: &str| {
        Op::ExplainPending(wire::ExplainPending {
            explanations: vec![wire::Explanation {
                sandbox_id: "a".to_owned(),
                uid,
                message: message.to_owned(),
            }],
        })
    };
    world.run(explanation("no room")).accepted();
    world.run(explanation("still no room")).accepted();
    world.run(place(uid, "n", &[])).accepted();
    world.run(report("n", "a", uid, wire::Phase::Running)).accepted();
    world
        .run(report("n", "a", uid, wire::Phase::Succeeded))
        .accepted();
    let sandbox = world.sandbox("a");
    assert_eq!(
        reasons(&sandbox.events),
        ["Created", "Unschedulable", "Scheduled", "Started", "Succeeded"]
    );
    let waiting = &sandbox.events[1];
    assert_eq!((waiting.count, waiting.message.as_str()), (2, "still no room"));
    // What is stored is what is there.
    assert_eq!(State::load(world.stored.iter()).expect("readable"), world.state);
}

#[test]
fn lost_node_and_drain_are_told_apart() {
    let mut world = World::with_nodes(&["n", "m"]);
    for id in ["lost", "drained"] {
        world.run(sandbox(id, "on_node_loss: reschedule")).accepted();
        let uid = world.sandbox(id).uid.0;
        let node = if id == "lost" { "n" } else { "m" };
        world.run(place(uid, node, &[])).accepted();
        world.run(report(node, id, uid, wire::Phase::Running)).accepted();
    }
    for state in [wire::NodeState::NotReady, wire::NodeState::Lost] {
        world
            .run(Op::SetNodeState(wire::SetNodeState {
                node_id: "n".to_owned(),
                state: state.into(),
                reason: "no heartbeat".to_owned(),
            }))
            .accepted();
    }
    world
        .run(Op::ScheduleNode(wire::ScheduleNode {
            node_id: "m".to_owned(),
            unschedulable: true,
            drain_ms: Some(1_000),
        }))
        .accepted();
    let lived = ["Created", "Scheduled", "Started"];
    for (id, why) in [("lost", "NodeLost"), ("drained", "Evicted")] {
        let expected: Vec<&str> = lived.into_iter().chain([why, "Rescheduled"]).collect();
        assert_eq!(reasons(&world.sandbox(id).events), expected, "{id}");
    }
    let node = |world: &World, id: &str| {
        world
            .state
            .node(&id.parse().expect("an id"))
            .expect("there")
            .clone()
    };
    assert_eq!(
        reasons(&node(&world, "n").events),
        ["Registered", "NotReady", "Lost"]
    );
    assert_eq!(
        reasons(&node(&world, "m").events),
        ["Registered", "Cordoned", "Draining"]
    );
}

use super::*;
use crate::state::State;
use proto::spec::Protocol;
use proto::wire::{self, command::Op};
use std::collections::BTreeMap;

/// A node for a test: id, cores and GiB that can be given away, whether it is ready.
type Given<'a> = (&'a str, u64, u64, wire::NodeState);

const READY: wire::NodeState = wire::NodeState::Ready;

/// A state and its view.
struct World {
    state: State,
    view: View,
    index: u64,
}

impl World {
    fn new(nodes: &[Given<'_>]) -> Self {
        Self::with_policy(Policy::Spread, nodes)
    }

    fn with_policy(policy: Policy, nodes: &[Given<'_>]) -> Self {
        let state = State::default();
        let mut world = Self {
            view: View::of(&state, policy),
            state,
            index: 0,
        };
        for (id, cores, gib, state) in nodes {
            world.register(id, *cores, *gib);
            if *state != READY {
                world.run(Op::SetNodeState(wire::SetNodeState {
                    node_id: (*id).to_owned(),
                    state: (*state).into(),
                    reason: String::new(),
                }));
            }
        }
        world
    }

    fn register(&mut self, id: &str, cores: u64, gib: u64) {
        self.run(Op::RegisterNode(wire::RegisterNode {
            node_id: id.to_owned(),
            labels: BTreeMap::from([("name".to_owned(), id.to_owned())]),
            report: Some(wire::NodeReport {
                capacity: Some(wire::NodeCapacity {
                    cpu_milli: cores * 1_000,
                    memory_bytes: gib << 30,
                    max_alloc_percent: 100,
                }),
                default_runtime: wire::Runtime::Native.into(),
                ..Default::default()
            }),
        }));
    }

    fn run(&mut self, op: Op) {
        self.index += 1;
        let command = wire::Command {
            request_id: String::new(),
            op: Some(op),
        };
        let batch = wire::Batch {
            now_ms: self.index,
            commands: vec![command],
        };
        for change in self.state.apply_batch(self.index, batch).changes {
            self.view.update(&change);
        }
    }

    fn label(&mut self, id: &str, labels: &str) {
        let text = format!(
            "apiVersion: sandboxd.o/v1\nkind: Node\nid: {id}\nmetadata: {{labels: {{{labels}}}}}\nspec: {{}}\n"
        );
        let manifest = proto::manifest::parse(&text).expect("a good manifest").remove(0);
        self.run(Op::Apply(wire::ApplyObject {
            manifest: Some((&manifest).into()),
            ..Default::default()
        }));
    }

    fn uid(&self, id: &str) -> u64 {
        let sandbox = self.state.sandbox(&id.parse().expect("an id"));
        sandbox.expect("it is there").uid.0
    }

    /// From node n.
    fn report(&mut self, id: &str, uid: u64, phase: wire::Phase) {
        self.run(Op::ReportStatus(wire::ReportStatus {
            node_id: "n".to_owned(),
            reports: vec![wire::SandboxReport {
                sandbox_id: id.to_owned(),
                uid,
                phase: phase.into(),
                ..Default::default()
            }],
        }));
    }

    /// Node n fails it by a fault of its own.
    fn fail_by_node(&mut self, id: &str) {
        self.run(Op::ReportStatus(wire::ReportStatus {
            node_id: "n".to_owned(),
            reports: vec![wire::SandboxReport {
                sandbox_id: id.to_owned(),
                uid: self.uid(id),
                phase: wire::Phase::Failed.into(),
                reason: wire::Reason::AgentError.into(),
                ..Default::default()
            }],
        }));
    }

    /// Node n has cleared away the one before it.
    fn report_gone(&mut self, id: &str) {
        let newest = self.uid(id);
        let of_id = |s: &&std::sync::Arc<proto::object::Sandbox>| s.id.as_str() == id && s.uid.0 < newest;
        let old = self
            .state
            .all_sandboxes()
            .find(of_id)
            .expect("an older one")
            .uid
            .0;
        self.report(id, old, wire::Phase::Deleting);
    }

    /// What a round would place, with nothing carried out.
    fn planned(&mut self, limit: usize) -> Vec<(String, String)> {
        let planned = plan(&mut self.view, 7, limit);
        let placements = planned.placements.into_iter();
        placements.map(|p| (p.sandbox_id, p.node_id)).collect()
    }

    /// Carries out a round of one.
    fn place_first(&mut self) {
        let placements = plan(&mut self.view, 7, 1).placements;
        self.run(Op::Place(wire::Place { placements }));
    }

    fn sandbox(&mut self, id: &str, more: &str) {
        self.apply(id, more, false);
    }

    /// Of one core and 64 MiB of its own.
    fn apply(&mut self, id: &str, more: &str, replace: bool) {
        let text = format!(
            "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: {id}\nspec:\n  {more}\n  containers:\n    \
             - {{name: main, image: busybox, resource: {{cpu: 1, memory: 64Mi, ephemeral_storage: 16Mi}}}}\n"
        );
        let manifest = proto::manifest::parse(&text).expect("a good manifest").remove(0);
        self.run(Op::Apply(wire::ApplyObject {
            manifest: Some((&manifest).into()),
            replace,
            ..Default::default()
        }));
    }

    /// One round, carried out; the ids with their nodes.
    fn place(&mut self) -> Vec<(String, String)> {
        let planned = plan(&mut self.view, 7, usize::MAX);
        let result = planned
            .placements
            .iter()
            .map(|p| (p.sandbox_id.clone(), p.node_id.clone()))
            .collect();
        self.run(Op::Place(wire::Place {
            placements: planned.placements,
        }));
        self.run(Op::ExplainPending(wire::ExplainPending {
            explanations: planned.explanations,
        }));
        result
    }

    fn explanation(&self, id: &str) -> String {
        let id = id.parse().expect("an id");
        self.state
            .sandbox(&id)
            .expect("it is there")
            .status
            .last_error
            .clone()
    }
}

#[track_caller]
fn check_explanation(nodes: &[Given<'_>], more: &str, expected: &str) {
    let mut world = World::new(nodes);
    world.sandbox("a", more);
    assert_eq!(world.place(), []);
    assert_eq!(world.explanation("a"), expected);
}

#[test]
fn every_reason_is_told_and_equal_ones_are_counted() {
    use wire::NodeState::{Lost, NotReady};
    check_explanation(&[], "", "0/0 nodes fit: no node has registered");
    check_explanation(
        &[("n", 4, 4, NotReady), ("m", 4, 4, NotReady), ("o", 4, 4, Lost)],
        "",
        "0/3 nodes fit: 2 NotReady, 1 Lost",
    );
    check_explanation(
        &[("n", 4, 4, NotReady), ("m", 8, 1, READY)],
        "volumes: [{name: v, ephemeral_storage: 2Gi}]",
        "0/2 nodes fit: 1 NotReady, 1 insufficient memory (need 2283Mi, free 1024Mi)",
    );
    check_explanation(
        &[("n", 0, 4, READY), ("m", 0, 4, READY)],
        "",
        "0/2 nodes fit: 2 insufficient cpu (need 1, free 0)",
    );
    check_explanation(
        &[("n", 4, 4, READY)],
        "runtime: runsc",
        "0/1 nodes fit: 1 without runtime runsc",
    );
    check_explanation(
        &[("n", 4, 4, READY)],
        "node_selector: {region: eu}",
        "0/1 nodes fit: 1 selector region=eu",
    );
}

#[test]
fn burst_is_spread_over_equal_nodes_and_ties_go_by_id() {
    let mut world = World::new(&[("b", 4, 16, READY), ("a", 4, 16, READY)]);
    for i in 0..4 {
        world.sandbox(&format!("s{i}"), "");
    }
    let nodes: Vec<String> = world.place().into_iter().map(|(_, node)| node).collect();
    assert_eq!(nodes, ["a", "b", "a", "b"]);
}

#[test]
fn most_free_node_is_first_and_full_ones_are_passed_over() {
    let mut world = World::new(&[("small", 1, 16, READY), ("large", 3, 16, READY)]);
    world.sandbox("a", "");
    // Both are wholly free: the tie goes by id.
    assert_eq!(world.place(), [("a".to_owned(), "large".to_owned())]);
    for id in ["b", "c", "d"] {
        world.sandbox(id, "");
    }
    let mut nodes: Vec<String> = world.place().into_iter().map(|(_, node)| node).collect();
    nodes.sort();
    assert_eq!(nodes, ["large", "large", "small"]);
    world.sandbox("e", "");
    assert_eq!(world.place(), []);
}

#[test]
fn binpack_fills_the_fullest_node_that_fits_before_the_next() {
    let mut world = World::with_policy(Policy::Binpack, &[("a", 3, 16, READY), ("b", 3, 16, READY)]);
    world.sandbox("b-first", "node_selector: {name: b}");
    world.place();
    let mut nodes = Vec::new();
    for i in 0..5 {
        world.sandbox(&format!("s{i}"), "");
        nodes.extend(world.place().into_iter().map(|(_, node)| node));
    }
    assert_eq!(nodes, ["b", "b", "a", "a", "a"]);
}

#[test]
fn scarce_ports_count_like_scarce_memory() {
    let mut world = World::new(&[("a", 64, 64, READY), ("b", 64, 64, READY)]);
    let ports: Vec<String> = (1..=2_000)
        .map(|port| format!("{{container_port: {port}}}"))
        .collect();
    let ports = format!("ports: [{}]", ports.join(", "));
    world.sandbox("many", &ports);
    world.sandbox("one", "");
    // One core of 64 is less than 2,000 ports of 22,768.
    world.sandbox("two", "");
    world.sandbox("three", "");
    let nodes: Vec<String> = world.place().into_iter().map(|(_, node)| node).collect();
    assert_eq!(nodes, ["a", "b", "b", "b"]);
}

/// 100 cores each, so that one sandbox more or less is a trifle.
#[test]
fn of_nodes_as_good_as_equal_the_one_with_the_image_is_chosen() {
    let mut world = World::new(&[("a", 100, 64, READY), ("b", 100, 64, READY)]);
    world.sandbox("first", "node_selector: {name: b}");
    world.place();
    world.sandbox("second", "");
    assert_eq!(world.place(), [("second".to_owned(), "b".to_owned())]);
    world.sandbox("third", "");
    // Now it would be two more than on the other node.
    assert_eq!(world.place(), [("third".to_owned(), "a".to_owned())]);
}

#[test]
fn node_that_has_failed_a_sandbox_gets_it_again_only_where_there_is_no_other() {
    let mut world = World::new(&[("n", 8, 16, READY), ("o", 2, 16, READY)]);
    world.sandbox("a", "");
    assert_eq!(world.place(), [("a".to_owned(), "n".to_owned())]);
    world.fail_by_node("a");
    assert_eq!(world.place(), [], "the old one is not gone yet");
    world.report_gone("a");
    assert_eq!(world.place(), [("a".to_owned(), "o".to_owned())]);
    let mut world = World::new(&[("n", 8, 16, READY)]);
    world.sandbox("a", "");
    world.place();
    world.fail_by_node("a");
    world.report_gone("a");
    assert_eq!(world.place(), [("a".to_owned(), "n".to_owned())]);
}

#[test]
fn selector_leads_past_better_nodes() {
    let mut world = World::new(&[("a", 8, 16, READY), ("b", 2, 16, READY)]);
    world.sandbox("a", "");
    world.sandbox("picky", "node_selector: {name: b}");
    let placed: BTreeMap<_, _> = world.place().into_iter().collect();
    assert_eq!(placed["picky"], "b");
}

#[test]
fn higher_priority_goes_first_then_age() {
    let mut world = World::new(&[("n", 2, 16, READY)]);
    world.sandbox("old", "");
    world.sandbox("young", "");
    world.sandbox("important", "priority: 5");
    let ids: Vec<String> = world.place().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["important", "old"]);
    assert_eq!(
        world.explanation("young"),
        "0/1 nodes fit: 1 insufficient cpu (need 1, free 0)"
    );
}

#[test]
fn what_fits_nowhere_is_looked_at_again_once_there_is_room() {
    let mut world = World::new(&[("n", 1, 16, READY)]);
    world.sandbox("first", "");
    world.sandbox("second", "");
    assert_eq!(world.place().len(), 1);
    assert!(!world.view.has_work(), "nothing has changed for the better");
    world.sandbox("third", "");
    assert!(world.view.has_work());
    assert_eq!(world.place(), []);
    let uid = world.state.sandbox(&"first".parse().unwrap()).unwrap().uid.0;
    world.run(Op::ReportStatus(wire::ReportStatus {
        node_id: "n".to_owned(),
        reports: vec![wire::SandboxReport {
            sandbox_id: "first".to_owned(),
            uid,
            phase: wire::Phase::Succeeded.into(),
            ..Default::default()
        }],
    }));
    assert_eq!(world.place(), [("second".to_owned(), "n".to_owned())]);
    world.register("m", 1, 16);
    assert_eq!(world.place(), [("third".to_owned(), "m".to_owned())]);
}

#[test]
fn explanation_is_proposed_only_when_it_is_news() {
    let mut world = World::new(&[("n", 0, 16, READY)]);
    world.sandbox("a", "");
    assert_eq!(plan(&mut world.view, 1, 9).explanations.len(), 1);
    world.view.forget_the_past();
    world.place();
    world.view.forget_the_past();
    assert!(plan(&mut world.view, 1, 9).is_empty());
}

#[test]
fn host_ports_are_within_their_range_and_never_shared() {
    let mut world = World::new(&[("n", 200, 64, READY)]);
    let both = "ports: [{container_port: 1}, {container_port: 2}, {container_port: 1, protocol: udp}]";
    for i in 0..100 {
        world.sandbox(&format!("s{i}"), both);
    }
    assert_eq!(world.place().len(), 100);
    let usage = world.state.usage(&"n".parse().unwrap());
    assert_eq!(usage.ports.len(), 300);
    assert!(
        usage
            .ports
            .iter()
            .all(|(_, port)| crate::state::placement::HOST_PORTS.contains(port))
    );
}

#[test]
fn replacement_waits_for_its_predecessor_and_says_so() {
    let mut world = World::new(&[("n", 9, 16, READY)]);
    world.sandbox("a", "");
    world.place();
    let old = world.uid("a");
    world.apply("a", "egress: true", true);
    assert_eq!(world.place(), []);
    assert_eq!(
        world.explanation("a"),
        "waits until the sandbox that it replaces is gone from its node"
    );
    assert!(!world.view.has_work());
    let mut anew = View::of(&world.state, Policy::Spread);
    assert!(plan(&mut anew, 1, 9).is_empty(), "a view made anew knows it too");
    world.report("a", old, wire::Phase::Deleting);
    assert_eq!(world.place(), [("a".to_owned(), "n".to_owned())]);
}

/// The nodes of one label are fuller than all others, as is usual where only few need it.
#[test]
fn class_of_nodes_is_spread_over_by_its_own_order() {
    let mut world = World::new(&[("a", 9, 64, READY), ("b", 9, 64, READY), ("c", 9, 64, READY)]);
    for id in ["b", "c"] {
        world.label(id, "disk: ssd");
    }
    for i in 0..8 {
        world.sandbox(&format!("s{i}"), "node_selector: {disk: ssd}");
    }
    for i in 0..2 {
        world.sandbox(&format!("t{i}"), "");
    }
    let mut count = BTreeMap::<String, usize>::new();
    for (_, node) in world.place() {
        *count.entry(node).or_default() += 1;
    }
    assert_eq!(
        count,
        BTreeMap::from([("a".into(), 2), ("b".into(), 4), ("c".into(), 4)])
    );
}

/// However the search goes about it, the outcome is that of looking at every node, best first.
#[test]
fn search_by_class_finds_what_looking_at_all_finds() {
    let mut world = World::new(&[]);
    for i in 0..40 {
        let id = format!("n{i:02}");
        world.register(&id, 4 + i % 5, 16);
        world.label(&id, &format!("kind: k{}", i % 3));
    }
    for i in 0..120 {
        let more = match i % 4 {
            3 => "priority: 0".to_owned(),
            kind => format!("node_selector: {{kind: k{kind}}}"),
        };
        world.sandbox(&format!("s{i:03}"), &more);
    }
    let at_once: Vec<_> = world.planned(usize::MAX);
    // One in a round: no class is ever searched for twice.
    let mut one_by_one = Vec::new();
    while world.view.has_work() {
        match world.planned(1) {
            planned if planned.is_empty() => break,
            planned => one_by_one.extend(planned),
        }
        world.place_first();
    }
    assert_eq!(at_once, one_by_one);
}

#[test]
fn released_port_is_not_chosen_while_it_rests() {
    let mut world = World::new(&[("n", 9, 16, READY)]);
    world.sandbox("a", "ports: [{container_port: 1}]");
    world.place();
    let uid = world.uid("a");
    world.report("a", uid, wire::Phase::Succeeded);
    let n: proto::id::NodeId = "n".parse().expect("an id");
    let free = |view: &View| view.nodes[&n].ports.free(Protocol::Tcp);
    let all = crate::state::placement::HOST_PORTS.len();
    assert_eq!(free(&world.view), all - 1);
    assert_eq!(free(&View::of(&world.state, Policy::Spread)), all - 1);
    world.index += u64::try_from(crate::state::PORT_REST.as_millis()).expect("short");
    world.sandbox("b", "");
    assert_eq!(free(&world.view), all);
    assert_eq!(free(&View::of(&world.state, Policy::Spread)), all);
}

#[test]
fn many_kinds_that_fit_nowhere_hold_nobody_up_for_good() {
    let mut world = World::new(&[("n", 2, 16, READY)]);
    for i in 0..100 {
        world.sandbox(&format!("s{i}"), &format!("node_selector: {{only: x{i}}}"));
    }
    world.sandbox("fits", "");
    let mut rounds = 0;
    let mut placed = Vec::new();
    while world.view.has_work() {
        placed.extend(world.place());
        rounds += 1;
    }
    assert_eq!(placed, [("fits".to_owned(), "n".to_owned())]);
    assert_eq!(rounds, 2);
    assert_eq!(world.explanation("s99"), "0/1 nodes fit: 1 selector only=x99");
}

#[test]
fn those_alike_that_fit_nowhere_do_not_use_up_a_round() {
    let mut world = World::new(&[("n", 2, 16, READY)]);
    for i in 0..50 {
        world.sandbox(&format!("s{i}"), "runtime: runsc");
    }
    world.place();
    world.view.forget_the_past();
    world.sandbox("fits", "");
    let planned = plan(&mut world.view, 1, 1);
    assert_eq!(planned.placements[0].sandbox_id, "fits");
}

#[test]
fn seed_alone_decides_over_ports() {
    let planned = |seed| {
        let mut world = World::new(&[("n", 4, 4, READY)]);
        world.sandbox("a", "ports: [{container_port: 1}]");
        plan(&mut world.view, seed, 9).placements[0].ports[0].host_port
    };
    assert_eq!(planned(1), planned(1));
    assert_ne!(planned(1), planned(2));
}

#[test]
fn last_free_port_is_found_and_then_there_is_none() {
    use rand::SeedableRng;
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let mut ports = ports::Ports::default();
    let count = crate::state::placement::HOST_PORTS.len();
    for left in (0..count).rev() {
        let port = ports.choose(Protocol::Udp, &mut random).expect("one is free");
        assert!(crate::state::placement::HOST_PORTS.contains(&port));
        assert_eq!(ports.free(Protocol::Udp), left);
    }
    assert_eq!(ports.choose(Protocol::Udp, &mut random), None);
    assert!(ports.choose(Protocol::Tcp, &mut random).is_some());
}

#[test]
fn limit_bounds_a_round() {
    let mut world = World::new(&[("n", 9, 16, READY)]);
    for i in 0..5 {
        world.sandbox(&format!("s{i}"), "");
    }
    assert_eq!(plan(&mut world.view, 1, 2).placements.len(), 2);
}

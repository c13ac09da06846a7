//! Random commands against the invariants. The seed is printed with a failure; `SBX_SEED` runs one again.

use super::levels::raise;
use super::nodes::{end_drain, schedule};
use super::*;
use crate::schedule::{Policy, View, plan};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const STEPS: usize = 600;

#[test]
fn random_commands_break_no_invariant() {
    match std::env::var("SBX_SEED") {
        Ok(seed) => simulate(seed.parse().expect("SBX_SEED is a number")),
        Err(_) => (0..20).for_each(simulate),
    }
}

fn simulate(seed: u64) {
    eprintln!("SBX_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::with_nodes(&[]);
    let mut view = View::default();
    for step in 0..STEPS {
        world.pass(Duration::from_millis(random.random_range(0..2_000)));
        match random.random_range(0..12) {
            // A round of the scheduler, its plan applied or lost on the way.
            0..3 => {
                let planned = plan(&mut view, seed, 8);
                if random.random_bool(0.9) {
                    world.run(Op::Place(wire::Place {
                        placements: planned.placements,
                    }));
                    take_in(&mut view, &world);
                    let explanations = planned.explanations;
                    world.run(Op::ExplainPending(wire::ExplainPending { explanations }));
                }
            }
            _ => {
                let id = format!("r{}", random.random_range(0..STEPS));
                let op = any(&mut random, &world);
                world.run_with_id(&id, op);
            }
        }
        take_in(&mut view, &world);
        if step % 50 == 0 {
            world.check_reload();
            check_view(&view, &world);
        }
    }
}

fn take_in(view: &mut View, world: &World) {
    for change in &world.changes {
        view.update(change);
    }
}

/// Kept up to date change by change, the view is what it would be if made anew.
#[track_caller]
fn check_view(view: &View, world: &World) {
    let mut kept = view.clone();
    let mut anew = View::of(&world.state, Policy::Spread);
    kept.forget_the_past();
    anew.forget_the_past();
    assert_eq!(plan(&mut kept, 1, usize::MAX), plan(&mut anew, 1, usize::MAX));
}

fn any(random: &mut StdRng, world: &World) -> Op {
    let id = format!("s{}", random.random_range(0..12));
    let name = format!("n{}", random.random_range(0..3));
    let sandbox_there = world
        .state
        .all_sandboxes()
        .nth(random.random_range(0..12))
        .cloned();
    match random.random_range(0..18) {
        0 | 1 => sandbox(
            &id,
            ["", "ttl_seconds: 5", "on_node_loss: reschedule"][random.random_range(0..3)],
        ),
        2 => replacing(
            &id,
            ["egress: true", "ports: [{container_port: 1}]"][random.random_range(0..2)],
        ),
        3 => delete(wire::Kind::Sandbox, &id, false),
        4 | 5 => register(&name),
        6 => set_state(
            &name,
            [
                wire::NodeState::Ready,
                wire::NodeState::NotReady,
                wire::NodeState::Lost,
            ][random.random_range(0..3)],
        ),
        7 => node(
            &name,
            "zone: b",
            ["", "unschedulable: true"][random.random_range(0..2)],
        ),
        8 => delete(wire::Kind::Node, &name, random.random_bool(0.5)),
        9 => external(&format!("e{}", random.random_range(0..3)), &name, "x.test"),
        10 => {
            let uids: Vec<u64> = world.state.all_sandboxes().map(|s| s.uid.0).collect();
            expire(&uids, Duration::from_secs(20))
        }
        11 => schedule(
            &name,
            random.random_bool(0.5),
            Some(random.random_range(0..4_000)),
        ),
        12 => end_drain(&name),
        13 => raise(random.random_range(0..=Level::NEWEST.0)),
        _ => match sandbox_there {
            None => register(&name),
            Some(sandbox) => {
                use wire::Phase::{Deleting, Failed, Running, Succeeded};
                let node = sandbox
                    .status
                    .node_name
                    .as_ref()
                    .map_or(name, ToString::to_string);
                let phase =
                    [Running, Running, Succeeded, Failed, Deleting, Deleting][random.random_range(0..6)];
                let mut told = report(&node, sandbox.id.as_str(), sandbox.uid.0, phase);
                if let Op::ReportStatus(told) = &mut told
                    && phase == Failed
                {
                    told.reports[0].reason = [wire::Reason::AgentError, wire::Reason::ContainerExited]
                        [random.random_range(0..2)]
                    .into();
                }
                told
            }
        },
    }
}

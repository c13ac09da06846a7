//! How many sandboxes per second one core plans and applies: the scheduler and the state alone, in this process.

use control_plane::schedule::{View, plan};
use control_plane::state::State;
use proto::wire::{self, command::Op};
use serde::Serialize;
use std::time::{Duration, Instant};

/// As the leader's controller plans.
const ROUND: usize = 1_000;

/// Sandboxes per second.
#[derive(Debug, Serialize)]
pub(super) struct Placement {
    nodes: usize,
    placed: usize,
    burst: usize,
    pub(super) plan_per_second: f64,
    pub(super) apply_per_second: f64,
    pub(super) both_per_second: f64,
}

struct Cluster {
    state: State,
    view: View,
    index: u64,
}

impl Cluster {
    fn run(&mut self, ops: Vec<Op>) {
        self.index += 1;
        let commands = ops.into_iter().map(|op| wire::Command {
            request_id: String::new(),
            op: Some(op),
        });
        let batch = wire::Batch {
            now_ms: self.index,
            commands: commands.collect(),
        };
        for change in self.state.apply_batch(self.index, batch).changes {
            self.view.update(&change);
        }
    }

    /// Plans and applies until nothing waits.
    fn place_all(&mut self) -> (Duration, Duration) {
        let (mut planning, mut applying) = (Duration::ZERO, Duration::ZERO);
        while self.view.has_work() {
            let begun = Instant::now();
            let planned = plan(&mut self.view, self.index, ROUND);
            planning += begun.elapsed();
            let begun = Instant::now();
            self.run(vec![Op::Place(wire::Place {
                placements: planned.placements,
            })]);
            applying += begun.elapsed();
        }
        (planning, applying)
    }

    fn add_sandboxes(&mut self, manifest: &wire::Manifest, prefix: &str, count: usize) {
        for i in 0..count {
            let manifest = wire::Manifest {
                id: format!("{prefix}-{i}"),
                ..manifest.clone()
            };
            self.run(vec![Op::Apply(wire::ApplyObject {
                manifest: Some(manifest),
                ..Default::default()
            })]);
        }
    }
}

/// Places `burst` sandboxes like `manifest` on `nodes` that have `placed` of them already.
pub(super) fn measure(manifest: &wire::Manifest, nodes: usize, placed: usize, burst: usize) -> Placement {
    let mut cluster = Cluster {
        state: State::default(),
        view: View::default(),
        index: 0,
    };
    for i in 0..nodes {
        cluster.run(vec![Op::RegisterNode(wire::RegisterNode {
            node_id: format!("node-{i}"),
            labels: Default::default(),
            report: Some(wire::NodeReport {
                capacity: Some(wire::NodeCapacity {
                    cpu_milli: 64_000,
                    memory_bytes: 256 << 30,
                    max_alloc_percent: 90,
                }),
                default_runtime: wire::Runtime::Native.into(),
                ..Default::default()
            }),
        })]);
    }
    cluster.add_sandboxes(manifest, "old", placed);
    cluster.place_all();
    cluster.add_sandboxes(manifest, "new", burst);
    let (planning, applying) = cluster.place_all();
    let rate = |time: Duration| burst as f64 / time.as_secs_f64();
    Placement {
        nodes,
        placed,
        burst,
        plan_per_second: rate(planning),
        apply_per_second: rate(applying),
        both_per_second: rate(planning + applying),
    }
}

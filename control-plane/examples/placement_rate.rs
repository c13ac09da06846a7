//! How many sandboxes per second one core plans and applies, at 5,000 nodes with 100,000 sandboxes placed.
//!
//! ```sh
//! cargo run --release -p control-plane --example placement_rate
//! ```

use control_plane::clock;
use control_plane::schedule::{View, plan};
use control_plane::state::State;
use proto::wire::{self, command::Op};
use std::io::Write;
use std::time::Duration;

const NODES: usize = 5_000;
const PLACED: usize = 100_000;
/// Placed in one burst and measured.
const BURST: usize = 20_000;
/// As the leader's controller plans.
const ROUND: usize = 1_000;

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
            let begun = clock::instant();
            let planned = plan(&mut self.view, self.index, ROUND);
            planning += begun.elapsed();
            let begun = clock::instant();
            self.run(vec![Op::Place(wire::Place {
                placements: planned.placements,
            })]);
            applying += begun.elapsed();
        }
        (planning, applying)
    }

    fn add_sandboxes(&mut self, prefix: &str, count: usize) {
        let text = |i: usize| {
            format!(
                "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: {prefix}-{i}\nspec:\n  \
                 ports: [{{container_port: 80}}]\n  containers:\n    \
                 - {{name: main, image: alpine, resource: {{cpu: 250m, memory: 128Mi}}}}\n"
            )
        };
        for i in 0..count {
            let manifest = proto::manifest::parse(&text(i)).map(|mut all| all.remove(0));
            let manifest = manifest.map(|m| wire::Manifest::from(&m)).ok();
            self.run(vec![Op::Apply(wire::ApplyObject {
                manifest,
                ..Default::default()
            })]);
        }
    }
}

fn main() -> std::io::Result<()> {
    let mut cluster = Cluster {
        state: State::default(),
        view: View::default(),
        index: 0,
    };
    for i in 0..NODES {
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
    cluster.add_sandboxes("old", PLACED);
    cluster.place_all();
    cluster.add_sandboxes("new", BURST);
    let (planning, applying) = cluster.place_all();
    let rate = |time: Duration| BURST as f64 / time.as_secs_f64();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{NODES} nodes, {PLACED} sandboxes placed, a burst of {BURST} in rounds of {ROUND}"
    )?;
    writeln!(out, "plan           {:>9.0}/s", rate(planning))?;
    writeln!(out, "apply          {:>9.0}/s", rate(applying))?;
    writeln!(out, "plan and apply {:>9.0}/s", rate(planning + applying))
}

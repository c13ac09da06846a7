//! One round of planning: every sandbox in its turn to the best node that fits, within what the round has given
//! away before.

use super::view::{NodeView, View};
use crate::state::placement::{self, Misfit, Placement};
use proto::budget::{self, Demand};
use proto::id::NodeId;
use proto::object::Sandbox;
use proto::spec::{Labels, Protocol, Runtime};
use proto::status::{AssignedPort, NodeState};
use proto::wire;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What to propose.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    pub placements: Vec<wire::Placement>,
    /// Only where the reason differs from what the sandbox says already.
    pub explanations: Vec<wire::Explanation>,
}

impl Plan {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.placements.is_empty() && self.explanations.is_empty()
    }
}

/// All that decides whether a sandbox fits: what fitted nowhere in this round fits nowhere for its like either,
/// since a round only takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    selector: Labels,
    runtime: Option<Runtime>,
    cpu: u64,
    memory: u64,
    tcp: usize,
    udp: usize,
}

impl Likeness {
    fn of(sandbox: &Sandbox, need: Demand) -> Self {
        let ports = |protocol| {
            sandbox
                .spec
                .ports
                .iter()
                .filter(|p| p.protocol == protocol)
                .count()
        };
        Self {
            selector: sandbox.spec.node_selector.clone(),
            runtime: sandbox.spec.runtime,
            cpu: need.cpu.0,
            memory: need.memory.0,
            tcp: ports(Protocol::Tcp),
            udp: ports(Protocol::Udp),
        }
    }
}

/// Plans for up to `limit` of those that wait and were not found to fit nowhere. `seed` chooses host ports.
///
/// Placements are not assumed to take effect: the view is as before, but for what it remembers as fitting nowhere.
/// Whoever proposes them takes in the changes that follow before planning again.
#[must_use]
pub fn plan(view: &mut View, seed: u64, limit: usize) -> Plan {
    let mut random = StdRng::seed_from_u64(seed);
    let mut result = Plan::default();
    let mut assumed: Vec<(Arc<Sandbox>, Placement)> = Vec::new();
    let mut misfits: BTreeMap<Likeness, String> = BTreeMap::new();
    let turns: Vec<Arc<Sandbox>> = view
        .waiting
        .values()
        .filter(|sandbox| !view.blocked.contains(&sandbox.uid))
        .take(limit)
        .cloned()
        .collect();
    for sandbox in turns {
        let need = budget::demand(&sandbox.spec);
        let likeness = Likeness::of(&sandbox, need);
        let reason = match misfits.get(&likeness) {
            Some(reason) => reason.clone(),
            None => match place(view, &sandbox, need, &mut random) {
                Some(placement) => {
                    view.assume(&sandbox, &placement);
                    result.placements.push(placement.wire(&sandbox));
                    assumed.push((sandbox, placement));
                    continue;
                }
                None => {
                    let reason = explain(view, &sandbox, need);
                    misfits.insert(likeness, reason.clone());
                    reason
                }
            },
        };
        view.blocked.insert(sandbox.uid);
        if sandbox.status.last_error != reason {
            result.explanations.push(wire::Explanation {
                sandbox_id: sandbox.id.to_string(),
                uid: sandbox.uid.0,
                message: reason,
            });
        }
    }
    for (sandbox, placement) in &assumed {
        view.forget(sandbox, placement);
    }
    result
}

/// The best node that fits, its ports taken in the view.
fn place(view: &mut View, sandbox: &Sandbox, need: Demand, random: &mut StdRng) -> Option<Placement> {
    let node = view
        .by_score
        .iter()
        .rev()
        .map(|score| score.node())
        .find(|id| {
            view.nodes
                .get(*id)
                .is_some_and(|node| misfit(node, sandbox, need).is_none())
        })?
        .clone();
    let ports = view.change_node(&node, |node| choose_ports(node, sandbox, random));
    Some(Placement {
        uid: sandbox.uid,
        node,
        ports,
    })
}

/// One host port per port of the sandbox. [`misfit`] has found that there are enough.
fn choose_ports(node: &mut NodeView, sandbox: &Sandbox, random: &mut StdRng) -> Vec<AssignedPort> {
    let ports = sandbox.spec.ports.iter();
    ports
        .filter_map(|port| {
            Some(AssignedPort {
                host_port: node.ports.choose(port.protocol, random)?,
                container_port: port.container_port,
                protocol: port.protocol,
            })
        })
        .collect()
}

fn misfit(view: &NodeView, sandbox: &Sandbox, need: Demand) -> Option<Misfit> {
    let Some(node) = view.node.as_deref() else {
        return Some(Misfit::State(NodeState::Unknown));
    };
    if let Err(misfit) = placement::suits(node, sandbox).and_then(|()| placement::fits(need, view.free())) {
        return Some(misfit);
    }
    [Protocol::Tcp, Protocol::Udp].into_iter().find_map(|protocol| {
        let wanted = sandbox
            .spec
            .ports
            .iter()
            .filter(|p| p.protocol == protocol)
            .count();
        (view.ports.free(protocol) < wanted).then_some(Misfit::Ports(protocol))
    })
}

/// `0/3 nodes fit: 1 NotReady, 1 insufficient memory (need 512Mi, free 96Mi), 1 selector region=eu`. Of several
/// nodes that lack one thing, the one that is closest to having it is shown.
fn explain(view: &View, sandbox: &Sandbox, need: Demand) -> String {
    let known: Vec<&NodeView> = view.nodes.values().filter(|node| node.node.is_some()).collect();
    if known.is_empty() {
        return "0/0 nodes fit: no node has registered".to_owned();
    }
    let mut counts: BTreeMap<Lack, (usize, Misfit)> = BTreeMap::new();
    for misfit in known.iter().filter_map(|node| misfit(node, sandbox, need)) {
        let (count, best) = counts
            .entry(Lack::of(&misfit))
            .or_insert_with(|| (0, misfit.clone()));
        *count += 1;
        if closer(&misfit, best) {
            *best = misfit;
        }
    }
    let reasons: BTreeSet<(Lack, String)> = counts
        .into_iter()
        .map(|(lack, (count, misfit))| (lack, format!("{count} {misfit}")))
        .collect();
    let reasons: Vec<String> = reasons.into_iter().map(|(_, text)| text).collect();
    format!("0/{} nodes fit: {}", known.len(), reasons.join(", "))
}

/// Misfits that are counted together, in the order in which they are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    State(NodeState),
    Unschedulable,
    Cpu,
    Memory,
    Ports(Protocol),
    Runtime,
    Selector(String),
}

impl Lack {
    fn of(misfit: &Misfit) -> Self {
        match misfit {
            Misfit::State(state) => Self::State(*state),
            Misfit::Unschedulable => Self::Unschedulable,
            Misfit::Selector(label) => Self::Selector(label.clone()),
            Misfit::Runtime(_) => Self::Runtime,
            Misfit::Cpu { .. } => Self::Cpu,
            Misfit::Memory { .. } => Self::Memory,
            Misfit::Ports(protocol) => Self::Ports(*protocol),
        }
    }
}

fn closer(new: &Misfit, best: &Misfit) -> bool {
    match (new, best) {
        (Misfit::Cpu { free, .. }, Misfit::Cpu { free: most, .. }) => free > most,
        (Misfit::Memory { free, .. }, Misfit::Memory { free: most, .. }) => free > most,
        (
            Misfit::State(_)
            | Misfit::Unschedulable
            | Misfit::Selector(_)
            | Misfit::Runtime(_)
            | Misfit::Cpu { .. }
            | Misfit::Memory { .. }
            | Misfit::Ports(_),
            _,
        ) => false,
    }
}

impl Placement {
    fn wire(&self, sandbox: &Sandbox) -> wire::Placement {
        let node: &NodeId = &self.node;
        wire::Placement {
            sandbox_id: sandbox.id.to_string(),
            uid: self.uid.0,
            node_id: node.to_string(),
            ports: self.ports.iter().map(Into::into).collect(),
        }
    }
}

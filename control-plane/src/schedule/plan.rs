//! One round of planning: every sandbox in its turn to the best node that fits, within what the round has given
//! away before.

use super::explain::{self, explain};
use super::search::Search;
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
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kinds of sandboxes that may fit nowhere in one round: finding that out, and why, means looking at every node,
/// about a millisecond at 5,000. The next round goes on from there.
const MAX_MISFITS: usize = 64;

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

    fn explain(&mut self, sandbox: &Sandbox, message: &str) {
        if sandbox.status.last_error != message {
            self.explanations.push(wire::Explanation {
                sandbox_id: sandbox.id.to_string(),
                uid: sandbox.uid.0,
                message: message.to_owned(),
            });
        }
    }
}

/// All that decides whether a sandbox fits: what fitted nowhere in this round fits nowhere for its like either,
/// since a round only takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    cpu: u64,
    memory: u64,
    tcp: usize,
    udp: usize,
    runtime: Option<Runtime>,
    selector: Labels,
}

impl Likeness {
    fn of(sandbox: &Sandbox, need: Demand) -> Self {
        Self {
            cpu: need.cpu.0,
            memory: need.memory.0,
            tcp: wanted_ports(sandbox, Protocol::Tcp),
            udp: wanted_ports(sandbox, Protocol::Udp),
            runtime: sandbox.spec.runtime,
            selector: sandbox.spec.node_selector.clone(),
        }
    }
}

fn wanted_ports(sandbox: &Sandbox, protocol: Protocol) -> usize {
    let ports = sandbox.spec.ports.iter();
    ports.filter(|port| port.protocol == protocol).count()
}

/// Plans up to `limit` placements, and as many explanations, for those that wait and were not found to fit nowhere.
/// `seed` chooses host ports.
///
/// Placements are not assumed to take effect: the view is as before, but for what it remembers as fitting nowhere.
/// Whoever proposes them takes in the changes that follow before planning again.
#[must_use]
pub fn plan(view: &mut View, seed: u64, limit: usize) -> Plan {
    let mut random = StdRng::seed_from_u64(seed);
    let mut result = Plan::default();
    let mut search = Search::default();
    let mut assumed: Vec<(Arc<Sandbox>, Placement)> = Vec::new();
    let mut misfits: BTreeMap<Likeness, String> = BTreeMap::new();
    let mut last = None;
    while result.placements.len() < limit && result.explanations.len() < limit && misfits.len() < MAX_MISFITS
    {
        let Some((turn, sandbox)) = view.queue.next(last) else {
            break;
        };
        last = Some(turn);
        if view.queue.has_predecessor(&sandbox) {
            view.queue.set_aside(turn);
            result.explain(&sandbox, explain::PREDECESSOR);
            continue;
        }
        let need = budget::demand(&sandbox.spec);
        // Most rounds place all they look at: what decides alike is of interest only after a failure.
        let likeness = (!misfits.is_empty()).then(|| Likeness::of(&sandbox, need));
        if let Some(reason) = likeness.as_ref().and_then(|likeness| misfits.get(likeness)) {
            view.queue.set_aside(turn);
            result.explain(&sandbox, reason);
        } else if let Some(node) = search.best(view, &sandbox, need) {
            let placement = assume(view, &mut search, node, &sandbox, &mut random);
            result.placements.push(placement.wire(&sandbox));
            assumed.push((sandbox, placement));
        } else {
            let reason = explain(view, &sandbox, need);
            view.short_of_ports |= reason.short_of_ports;
            view.queue.set_aside(turn);
            result.explain(&sandbox, &reason.text);
            let likeness = likeness.unwrap_or_else(|| Likeness::of(&sandbox, need));
            misfits.insert(likeness, reason.text);
        }
    }
    for (sandbox, placement) in &assumed {
        view.forget(sandbox, placement);
    }
    result
}

/// Puts it on that node in the view, with ports.
fn assume(
    view: &mut View,
    search: &mut Search,
    node: NodeId,
    sandbox: &Sandbox,
    random: &mut StdRng,
) -> Placement {
    let before = view.score(&node);
    let ports = view.change_node(&node, |node| choose_ports(node, sandbox, random));
    let uid = sandbox.uid;
    let placement = Placement { uid, node, ports };
    view.assume(sandbox, &placement);
    let after = view.score(&placement.node);
    if let (Some((before, _)), Some((after, free))) = (before, after) {
        search.moved(&before, &after, free);
    }
    placement
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

/// The first reason why that node can't take it; `None`: it can.
pub(super) fn misfit<'a>(view: &NodeView, sandbox: &'a Sandbox, need: Demand) -> Option<Misfit<'a>> {
    let Some(node) = view.node.as_deref() else {
        return Some(Misfit::State(NodeState::Unknown));
    };
    if let Err(misfit) = placement::suits(node, sandbox).and_then(|()| placement::fits(need, view.free())) {
        return Some(misfit);
    }
    [Protocol::Tcp, Protocol::Udp].into_iter().find_map(|protocol| {
        let wanted = wanted_ports(sandbox, protocol);
        (view.ports.free(protocol) < wanted).then_some(Misfit::Ports(protocol))
    })
}

impl Placement {
    fn wire(&self, sandbox: &Sandbox) -> wire::Placement {
        wire::Placement {
            sandbox_id: sandbox.id.to_string(),
            uid: self.uid.0,
            node_id: self.node.to_string(),
            ports: self.ports.iter().map(Into::into).collect(),
        }
    }
}

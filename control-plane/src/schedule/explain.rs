//! Why a sandbox waits, in one line for a person. Owns its form, which the contract gives. Called by `plan` for what
//! fitted nowhere.

use super::plan::misfit;
use super::view::{NodeView, View};
use crate::state::placement::Misfit;
use proto::budget::Demand;
use proto::object::Sandbox;
use proto::spec::Protocol;
use proto::status::NodeState;
use std::collections::BTreeMap;

/// No node is looked at before that is over.
pub(super) const PREDECESSOR: &str = "waits until the sandbox that it replaces is gone from its node";

/// Why it fits nowhere.
pub(super) struct Explanation {
    pub(super) text: String,
    /// A node would take it but for its host ports.
    pub(super) short_of_ports: bool,
}

/// `0/3 nodes fit: 1 NotReady, 1 insufficient memory (need 512Mi, free 96Mi), 1 selector region=eu`. Of several
/// nodes that lack one thing, the one that is closest to having it is shown.
pub(super) fn explain(view: &View, sandbox: &Sandbox, need: Demand) -> Explanation {
    let known = || view.nodes.values().filter(|node| node.node.is_some());
    let mut counts: BTreeMap<Lack<'_>, (usize, Misfit<'_>)> = BTreeMap::new();
    for misfit in known().filter_map(|node: &NodeView| misfit(node, sandbox, need)) {
        let (count, best) = counts.entry(Lack::of(misfit)).or_insert((0, misfit));
        *count += 1;
        if closer(misfit, *best) {
            *best = misfit;
        }
    }
    let reasons: Vec<String> = counts
        .values()
        .map(|(count, misfit)| format!("{count} {misfit}"))
        .collect();
    let text = match known().count() {
        0 => "0/0 nodes fit: no node has registered".to_owned(),
        nodes => format!("0/{nodes} nodes fit: {}", reasons.join(", ")),
    };
    Explanation {
        text,
        short_of_ports: counts.keys().any(|lack| matches!(lack, Lack::Ports(_))),
    }
}

/// Misfits that are counted together, in the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack<'a> {
    State(NodeState),
    Unschedulable,
    Cpu,
    Memory,
    Ports(Protocol),
    Runtime,
    Selector { key: &'a str, value: &'a str },
}

impl<'a> Lack<'a> {
    fn of(misfit: Misfit<'a>) -> Self {
        match misfit {
            Misfit::State(state) => Self::State(state),
            Misfit::Unschedulable => Self::Unschedulable,
            Misfit::Selector { key, value } => Self::Selector { key, value },
            Misfit::Runtime(_) => Self::Runtime,
            Misfit::Cpu { .. } => Self::Cpu,
            Misfit::Memory { .. } => Self::Memory,
            Misfit::Ports(protocol) => Self::Ports(protocol),
        }
    }
}

fn closer(new: Misfit<'_>, best: Misfit<'_>) -> bool {
    match (new, best) {
        (Misfit::Cpu { free, .. }, Misfit::Cpu { free: most, .. }) => free > most,
        (Misfit::Memory { free, .. }, Misfit::Memory { free: most, .. }) => free > most,
        (
            Misfit::State(_)
            | Misfit::Unschedulable
            | Misfit::Selector { .. }
            | Misfit::Runtime(_)
            | Misfit::Cpu { .. }
            | Misfit::Memory { .. }
            | Misfit::Ports(_),
            _,
        ) => false,
    }
}

//! How much a node is to be preferred. Fields in order of importance; the greatest wins.

use super::Policy;
use proto::id::NodeId;
use proto::object::Node;
use proto::units::{Bytes, MilliCpu};
use std::cmp::Reverse;

/// Parts of a node's capacity that shares are counted in.
const WHOLE: u64 = 1_000_000;

/// Nodes whose scores differ by less than a fiftieth are as good as equal: less than one sandbox on most nodes.
const NEAR: u64 = WHOLE / 50;

/// Ties go by id: the same cluster gives the same plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// Millionths: of what is free where load is spread, of what is taken where nodes are filled. Of cpu, memory and
    /// host ports the scarcest decides, since it runs out first.
    preference: u64,
    id: Reverse<NodeId>,
}

impl Score {
    /// `free_ports`: the share of host ports, in millionths.
    pub(super) fn of(policy: Policy, node: &Node, free: (MilliCpu, Bytes), free_ports: u64) -> Self {
        let (cpu, memory) = node
            .report
            .as_ref()
            .map(|report| report.capacity.allocatable())
            .unwrap_or_default();
        let free = share(free.0.0, cpu.0)
            .min(share(free.1.0, memory.0))
            .min(free_ports);
        Self {
            preference: match policy {
                Policy::Spread => free,
                Policy::Binpack => WHOLE.saturating_sub(free),
            },
            id: Reverse(node.id.clone()),
        }
    }

    pub(super) fn node(&self) -> &NodeId {
        &self.id.0
    }

    /// Whether the one is as good as the other but for trifles.
    pub(super) fn is_near(&self, other: &Self) -> bool {
        self.preference.abs_diff(other.preference) < NEAR
    }
}

/// Millionths of `all` that `free` is.
pub(super) fn share(free: u64, all: u64) -> u64 {
    match all {
        0 => 0,
        all => u64::try_from(u128::from(free) * u128::from(WHOLE) / u128::from(all)).unwrap_or(u64::MAX),
    }
}

//! How much a node is to be preferred. Fields in order of importance; the greatest wins.

use proto::id::NodeId;
use proto::object::Node;
use proto::units::{Bytes, MilliCpu};
use std::cmp::Reverse;

/// Parts of a node's capacity that shares are counted in.
const WHOLE: u128 = 1_000_000;

/// Most free first, ties by id: load is spread, and the same cluster gives the same plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// Millionths that are free, of cpu or memory, whichever is scarcer: the resource that runs out first decides.
    free_share: u64,
    id: Reverse<NodeId>,
}

impl Score {
    pub(super) fn of(node: &Node, free: (MilliCpu, Bytes)) -> Self {
        let (cpu, memory) = node
            .report
            .as_ref()
            .map(|report| report.capacity.allocatable())
            .unwrap_or_default();
        let share = |free: u64, all: u64| match all {
            0 => 0,
            all => u64::try_from(u128::from(free) * WHOLE / u128::from(all)).unwrap_or(u64::MAX),
        };
        Self {
            free_share: share(free.0.0, cpu.0).min(share(free.1.0, memory.0)),
            id: Reverse(node.id.clone()),
        }
    }

    pub(super) fn node(&self) -> &NodeId {
        &self.id.0
    }
}

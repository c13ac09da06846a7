//! What planning sees, kept up to date from the changes of the state, never by looking through all of it again.

use super::ports::Ports;
use super::score::Score;
use crate::state::placement::{self, Placement};
use crate::state::{Change, State};
use proto::budget;
use proto::id::{NodeId, Uid};
use proto::object::{Node, Sandbox};
use proto::status::{NodeState, Phase};
use proto::units::{Bytes, MilliCpu, Timestamp};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The order in which sandboxes are placed: priority, then age.
type Turn = (Reverse<i32>, Timestamp, Uid);

/// Nodes and waiting sandboxes.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub(super) nodes: BTreeMap<NodeId, NodeView>,
    /// Of the nodes that take sandboxes at all.
    pub(super) by_score: BTreeSet<Score>,
    pub(super) waiting: BTreeMap<Turn, Arc<Sandbox>>,
    /// Of those that wait, the ones that fitted nowhere when they were last looked at; nothing has changed for the
    /// better since. All are in `waiting`.
    pub(super) blocked: BTreeSet<Uid>,
}

/// A node with what it has left.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeView {
    /// `None`: sandboxes are placed there, but the node is not known any more.
    pub(super) node: Option<Arc<Node>>,
    used_cpu: MilliCpu,
    used_memory: Bytes,
    pub(super) ports: Ports,
}

impl NodeView {
    pub(super) fn free(&self) -> (MilliCpu, Bytes) {
        let node = self.node.as_deref();
        node.map(|node| placement::free(node, self.used_cpu, self.used_memory))
            .unwrap_or_default()
    }

    /// `None`: it takes none.
    fn score(&self) -> Option<Score> {
        let node = self.node.as_deref()?;
        let takes = node.state == NodeState::Ready && !node.spec.unschedulable;
        takes.then(|| Score::of(node, self.free()))
    }
}

/// What a sandbox takes of a node: cpu, memory, ports.
struct Taken<'a> {
    node: &'a NodeId,
    sandbox: &'a Sandbox,
}

impl<'a> Taken<'a> {
    fn by(sandbox: &'a Sandbox) -> Option<Self> {
        let node = sandbox.status.node_name.as_ref()?;
        sandbox
            .status
            .ended_at
            .is_none()
            .then_some(Self { node, sandbox })
    }
}

fn turn(sandbox: &Sandbox) -> Option<Turn> {
    let waits = sandbox.status.phase == Phase::Pending;
    waits.then_some((Reverse(sandbox.spec.priority), sandbox.created_at, sandbox.uid))
}

impl View {
    /// All of a state: once, when a leader begins.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let mut view = Self::default();
        for node in state.nodes() {
            view.update(&Change::Node {
                before: None,
                after: Some(node.clone()),
            });
        }
        for sandbox in state.all_sandboxes() {
            view.update_sandbox(None, Some(sandbox));
        }
        view
    }

    /// Takes in one change.
    pub fn update(&mut self, change: &Change) {
        match change {
            Change::Sandbox { before, after, .. } => {
                // That a replaced one is what its id stands for again is news for users only.
                if before.is_none() && after.as_ref().is_some_and(|s| s.status.phase == Phase::Deleting) {
                    return;
                }
                self.update_sandbox(before.as_deref(), after.as_ref());
            }
            Change::Node { before, after } => {
                if let Some(id) = before.as_ref().or(after.as_ref()).map(|node| &node.id) {
                    self.change_node(id, |node| node.node = after.clone());
                    self.blocked.clear();
                }
            }
            Change::External { .. } => {}
        }
    }

    fn update_sandbox(&mut self, before: Option<&Sandbox>, after: Option<&Arc<Sandbox>>) {
        let took = before.and_then(Taken::by);
        let takes = after.and_then(|after| Taken::by(after));
        if let Some(turn) = before.and_then(turn) {
            self.waiting.remove(&turn);
        }
        let was_blocked = before.is_some_and(|before| self.blocked.remove(&before.uid));
        if let Some(taken) = &took {
            self.release(taken);
        }
        if let Some(after) = after
            && let Some(turn) = turn(after)
        {
            self.waiting.insert(turn, after.clone());
            // Its labels or its explanation have changed, not what it needs.
            if was_blocked {
                self.blocked.insert(after.uid);
            }
        }
        if let Some(taken) = &takes {
            self.take(taken);
        }
        if took.is_some() && takes.is_none() {
            self.blocked.clear();
        }
    }

    fn take(&mut self, taken: &Taken<'_>) {
        let demand = budget::demand(&taken.sandbox.spec);
        self.change_node(taken.node, |node| {
            node.used_cpu += demand.cpu;
            node.used_memory += demand.memory;
            for port in &taken.sandbox.status.assigned_ports {
                node.ports.take(port.protocol, port.host_port);
            }
        });
    }

    fn release(&mut self, taken: &Taken<'_>) {
        let demand = budget::demand(&taken.sandbox.spec);
        self.change_node(taken.node, |node| {
            node.used_cpu = node.used_cpu.saturating_sub(demand.cpu);
            node.used_memory = node.used_memory.saturating_sub(demand.memory);
            for port in &taken.sandbox.status.assigned_ports {
                node.ports.release(port.protocol, port.host_port);
            }
        });
    }

    /// Keeps the order by score in step with the node.
    pub(super) fn change_node<T>(&mut self, id: &NodeId, change: impl FnOnce(&mut NodeView) -> T) -> T {
        let node = self.nodes.entry(id.clone()).or_default();
        if let Some(score) = node.score() {
            self.by_score.remove(&score);
        }
        let result = change(node);
        if let Some(score) = node.score() {
            self.by_score.insert(score);
        }
        let is_empty = node.node.is_none() && node.used_memory == Bytes(0);
        if is_empty {
            self.nodes.remove(id);
        }
        result
    }

    /// As if the placement had taken effect, so that the next one sees less room.
    pub(super) fn assume(&mut self, sandbox: &Sandbox, placement: &Placement) {
        let demand = budget::demand(&sandbox.spec);
        self.change_node(&placement.node, |node| {
            node.used_cpu += demand.cpu;
            node.used_memory += demand.memory;
        });
    }

    /// Undoes what planning has assumed, ports included.
    pub(super) fn forget(&mut self, sandbox: &Sandbox, placement: &Placement) {
        let demand = budget::demand(&sandbox.spec);
        self.change_node(&placement.node, |node| {
            node.used_cpu = node.used_cpu.saturating_sub(demand.cpu);
            node.used_memory = node.used_memory.saturating_sub(demand.memory);
            for port in &placement.ports {
                node.ports.release(port.protocol, port.host_port);
            }
        });
    }

    #[cfg(test)]
    pub(crate) fn forget_what_fitted_nowhere(&mut self) {
        self.blocked.clear();
    }

    /// How many wait, those included that fit nowhere.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether planning now could place anything, or has anything to explain.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.waiting.len() > self.blocked.len()
    }
}

//! What planning sees, kept up to date from the changes of the state, never by looking through all of it again.

use super::Policy;
use super::images::Images;
use super::ports::Ports;
use super::queue::Queue;
use super::score::Score;
use crate::state::placement::{self, Placement};
use crate::state::resting::Resting;
use crate::state::{Change, HostPort, State};
use proto::budget;
use proto::id::NodeId;
use proto::object::{Node, Sandbox};
use proto::status::{NodeState, Phase};
use proto::units::{Bytes, MilliCpu, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nodes and waiting sandboxes.
#[derive(Debug, Clone, Default)]
pub struct View {
    policy: Policy,
    pub(super) nodes: BTreeMap<NodeId, NodeView>,
    /// Of the nodes that take sandboxes at all, with what each has left.
    pub(super) by_score: BTreeMap<Score, Free>,
    pub(super) queue: Queue,
    pub(super) images: Images,
    /// Host ports that were given back; in their nodes they still count as taken.
    resting: Resting,
    /// The newest time that a change has told. Replicas' clocks are not the scheduler's business: a port whose rest
    /// it misjudges for that is refused by `apply`, and another is chosen.
    now: Timestamp,
    /// Somebody is set aside for want of host ports.
    pub(super) short_of_ports: bool,
}

pub(super) type Free = (MilliCpu, Bytes);

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
    pub(super) fn free(&self) -> Free {
        let node = self.node.as_deref();
        node.map(|node| placement::free(node, self.used_cpu, self.used_memory))
            .unwrap_or_default()
    }

    /// `None`: it takes none.
    pub(super) fn score(&self, policy: Policy) -> Option<(Score, Free)> {
        let node = self.node.as_deref()?;
        let takes = node.state == NodeState::Ready && !node.spec.unschedulable;
        let free = self.free();
        takes.then(|| (Score::of(policy, node, free, self.ports.free_share()), free))
    }

    fn add(&mut self, demand: budget::Demand) {
        self.used_cpu += demand.cpu;
        self.used_memory += demand.memory;
    }

    fn subtract(&mut self, demand: budget::Demand) {
        self.used_cpu = self.used_cpu.saturating_sub(demand.cpu);
        self.used_memory = self.used_memory.saturating_sub(demand.memory);
    }
}

impl View {
    /// All of a state: once, when a leader begins.
    #[must_use]
    pub fn of(state: &State, policy: Policy) -> Self {
        let mut view = Self {
            policy,
            now: state.now(),
            ..Self::default()
        };
        for node in state.nodes() {
            view.update(&Change::Node {
                before: None,
                after: Some(node.clone()),
            });
            for (port, since) in state.resting_ports(&node.id) {
                view.rest(&node.id, port, since);
            }
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
                if let Some(after) = after {
                    self.pass(after.updated_at);
                }
                self.update_sandbox(before.as_deref(), after.as_ref());
            }
            Change::Node { before, after } => {
                if let Some(id) = before.as_ref().or(after.as_ref()).map(|node| &node.id) {
                    if after.is_none() {
                        self.images.forget_node(id);
                    }
                    self.change_node(id, |node| node.node = after.clone());
                    self.queue.look_again();
                }
            }
            Change::External { .. } => {}
        }
    }

    fn update_sandbox(&mut self, before: Option<&Sandbox>, after: Option<&Arc<Sandbox>>) {
        self.queue.update(before, after);
        let took = before.and_then(|before| Some((placement::taken_node(before)?, before)));
        let takes = after.and_then(|after| Some((placement::taken_node(after)?, &**after)));
        if let Some((node, sandbox)) = took {
            self.release(node, sandbox);
        }
        if let Some((node, sandbox)) = takes {
            self.take(node, sandbox);
            if took.is_none() {
                self.images.add(node, sandbox);
            }
        }
        if took.is_some() && takes.is_none() {
            self.queue.look_again();
        }
    }

    fn take(&mut self, node: &NodeId, sandbox: &Sandbox) {
        let demand = budget::demand(&sandbox.spec);
        self.change_node(node, |view| {
            view.add(demand);
            for (protocol, port) in placement::host_ports(sandbox) {
                view.ports.take(protocol, port);
            }
        });
        for port in placement::host_ports(sandbox) {
            self.resting.remove(node, port);
        }
    }

    fn release(&mut self, node: &NodeId, sandbox: &Sandbox) {
        let demand = budget::demand(&sandbox.spec);
        self.change_node(node, |view| view.subtract(demand));
        for port in placement::host_ports(sandbox) {
            self.rest(node, port, self.now);
        }
    }

    fn rest(&mut self, node: &NodeId, port: HostPort, since: Timestamp) {
        self.change_node(node, |view| view.ports.take(port.0, port.1));
        self.resting.insert(node, port, since);
    }

    fn pass(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
        let rested = self.resting.end(self.now);
        for (node, (protocol, port)) in &rested {
            self.change_node(node, |view| view.ports.release(*protocol, *port));
        }
        if self.short_of_ports && !rested.is_empty() {
            self.short_of_ports = false;
            self.queue.look_again();
        }
    }

    /// Keeps the order by score in step with the node.
    pub(super) fn change_node<T>(&mut self, id: &NodeId, change: impl FnOnce(&mut NodeView) -> T) -> T {
        let node = self.nodes.entry(id.clone()).or_default();
        let before = node.score(self.policy);
        let result = change(node);
        let after = node.score(self.policy);
        let is_empty = node.node.is_none() && node.used_memory == Bytes(0);
        if before != after {
            if let Some((score, _)) = before {
                self.by_score.remove(&score);
            }
            if let Some((score, free)) = after {
                self.by_score.insert(score, free);
            }
        }
        if is_empty {
            self.nodes.remove(id);
        }
        result
    }

    pub(super) fn score(&self, id: &NodeId) -> Option<(Score, Free)> {
        self.nodes.get(id)?.score(self.policy)
    }

    /// As if the placement had taken effect, so that the next one sees less room.
    pub(super) fn assume(&mut self, sandbox: &Sandbox, placement: &Placement) {
        let demand = budget::demand(&sandbox.spec);
        self.change_node(&placement.node, |node| node.add(demand));
    }

    /// Undoes what planning has assumed, ports included.
    pub(super) fn forget(&mut self, sandbox: &Sandbox, placement: &Placement) {
        let demand = budget::demand(&sandbox.spec);
        self.change_node(&placement.node, |node| {
            node.subtract(demand);
            for port in &placement.ports {
                node.ports.release(port.protocol, port.host_port);
            }
        });
    }

    /// What depends on when the view was made: who was set aside, and when ports were seen to be given back.
    #[cfg(test)]
    pub(crate) fn forget_the_past(&mut self) {
        self.images = Images::default();
        self.queue.look_again();
        self.now = Timestamp(u64::MAX / 2);
        self.pass(self.now);
    }

    /// Whether planning now could place anything, or has anything to explain.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.queue.has_work()
    }
}

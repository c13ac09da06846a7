//! What holds between any two commands. Asked after every step of the tests and of the simulation.

use super::placement::taken_node;
use super::{Placed, State, Usage};
use proto::budget;
use proto::id::NodeId;
use proto::status::{NodeState, Phase};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    /// Everything that is wrong; nothing, if this program is right.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        self.check_indexes(&mut violations);
        self.check_sandboxes(&mut violations);
        self.check_nodes(&mut violations);
        violations
    }

    fn check_indexes(&self, violations: &mut Vec<String>) {
        let mut wrong = |is_wrong: bool, what: &str| {
            if is_wrong {
                violations.push(format!("the index of {what} has drifted"));
            }
        };
        let by_id: BTreeSet<_> = self.sandboxes.values().map(|s| (s.id.clone(), s.uid)).collect();
        wrong(by_id != self.by_id, "sandboxes by id");
        wrong(self.placed() != self.placed, "sandboxes by node");
        let external_of: BTreeMap<_, _> = self
            .externals
            .values()
            .map(|e| (e.spec.node_id.clone(), e.id.clone()))
            .collect();
        wrong(external_of != self.external_of, "externals by node");
        wrong(!self.requests.is_consistent(), "answers by age");
        wrong(!self.resting.is_consistent(), "resting ports by age");
    }

    /// The index computed anew.
    fn placed(&self) -> BTreeMap<NodeId, Placed> {
        let mut placed: BTreeMap<NodeId, Placed> = BTreeMap::new();
        for sandbox in self.sandboxes.values() {
            let Some(node) = &sandbox.status.node_name else {
                continue;
            };
            let entry = placed.entry(node.clone()).or_default();
            entry.uids.insert(sandbox.uid);
            if taken_node(sandbox).is_some() {
                let demand = budget::demand(&sandbox.spec);
                let Usage {
                    cpu,
                    memory,
                    sandboxes,
                    ports,
                } = &mut entry.usage;
                *cpu += demand.cpu;
                *memory += demand.memory;
                *sandboxes += 1;
                ports.extend(
                    sandbox
                        .status
                        .assigned_ports
                        .iter()
                        .map(|p| (p.protocol, p.host_port)),
                );
            }
        }
        placed
    }

    fn check_sandboxes(&self, violations: &mut Vec<String>) {
        for sandbox in self.sandboxes.values() {
            let (id, uid, status) = (&sandbox.id, sandbox.uid, &sandbox.status);
            let mut wrong = |is_wrong: bool, what: &str| {
                if is_wrong {
                    violations.push(format!("sandbox {id} ({uid}), {}: {what}", status.phase));
                }
            };
            wrong(uid.0 > self.last_uid, "its uid was never given out");
            wrong(sandbox.updated_at > self.now, "it was changed in the future");
            let placed = status.node_name.is_some();
            wrong(
                placed == (status.phase == Phase::Pending),
                "all but Pending ones have a node",
            );
            wrong(
                status.phase.has_ended() && status.ended_at.is_none(),
                "it has ended, but nobody knows when",
            );
            let is_newest = self.uids_of(id).next_back() == Some(uid);
            wrong(
                !is_newest && status.phase != Phase::Deleting,
                "it was replaced, yet is not Deleting",
            );
        }
    }

    fn check_nodes(&self, violations: &mut Vec<String>) {
        for (node, port, since) in self.resting.iter() {
            let used = self
                .placed
                .get(node)
                .is_some_and(|placed| placed.usage.ports.contains(&port));
            if used || since > self.now || self.now.since(since) >= super::PORT_REST {
                violations.push(format!(
                    "node {node}: port {port:?} rests since {since}, used: {used}"
                ));
            }
        }
        for (id, placed) in &self.placed {
            let live = placed
                .uids
                .iter()
                .filter_map(|uid| self.sandboxes.get(uid))
                .filter(|s| taken_node(s).is_some());
            let ports: usize = live.clone().map(|s| s.status.assigned_ports.len()).sum();
            if ports != placed.usage.ports.len() {
                violations.push(format!("node {id}: a port is given to two sandboxes"));
            }
            let state = self.nodes.get(id).map(|n| n.state);
            let may_hold = matches!(state, Some(NodeState::Ready | NodeState::NotReady));
            if !may_hold && live.count() > 0 {
                violations.push(format!("node {id} is {state:?}, yet sandboxes live on it"));
            }
        }
    }
}

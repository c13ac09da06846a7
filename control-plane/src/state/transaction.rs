//! The one door: objects change here and nowhere else, and the indexes with them.

use super::events;
use super::level::Level;
use super::placement;
use super::replica::ReplicaNumber;
use super::token::Token;
use super::{Change, HostPort, Placed, Stamp, State, Write, stored};
use proto::budget;
use proto::id::{ExternalId, NodeId, Uid};
use proto::object::{External, Node, Sandbox};
use proto::policy::Policy;
use std::sync::Arc;

/// One command at work.
pub(super) struct Transaction<'a> {
    state: &'a mut State,
    pub(super) stamp: Stamp,
    changes: Vec<Change>,
    /// What is stored beside objects: ports that were given back, tokens, numbers of replicas.
    records: Vec<Write>,
    /// What ends now ends since its node is drained.
    pub(super) evicting: bool,
    /// Of the request that asks for it; empty: none.
    pub(super) trace_id: String,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(state: &'a mut State, stamp: Stamp) -> Self {
        Self {
            state,
            stamp,
            changes: Vec::new(),
            records: Vec::new(),
            evicting: false,
            trace_id: String::new(),
        }
    }

    /// What has changed, and the records beside objects.
    pub(super) fn finish(self) -> (Vec<Change>, Vec<Write>) {
        (self.changes, self.records)
    }

    pub(super) fn state(&self) -> &State {
        self.state
    }

    /// A number that no sandbox had before.
    pub(super) fn new_uid(&mut self) -> Uid {
        self.state.last_uid += 1;
        Uid(self.state.last_uid)
    }

    /// Written with what else the state knows beside its objects.
    pub(super) fn put_policy(&mut self, policy: Policy) {
        self.state.policy = policy;
    }

    /// Written with what else the state knows beside its objects.
    pub(super) fn put_level(&mut self, level: Level) {
        self.state.level = level;
    }

    /// Creates it, or takes the place of what has its uid.
    pub(super) fn put_sandbox(&mut self, mut sandbox: Sandbox) -> Arc<Sandbox> {
        sandbox.updated_at = self.stamp.now;
        sandbox.resource_version = self.stamp.index;
        let before = self.state.sandboxes.get(&sandbox.uid);
        events::note_sandbox(
            before.map(AsRef::as_ref),
            &mut sandbox,
            self.evicting,
            self.stamp.now,
        );
        let after = Arc::new(sandbox);
        let before = self.state.insert_sandbox(after.clone());
        self.rest_ports(before.as_deref(), Some(&after));
        let replaced = self.is_replaced(&after);
        self.changes.push(Change::Sandbox {
            before,
            after: Some(after.clone()),
            replaced,
        });
        after
    }

    pub(super) fn remove_sandbox(&mut self, uid: Uid) {
        let Some(before) = self.state.sandboxes.get(&uid).cloned() else {
            return;
        };
        let replaced = self.is_replaced(&before);
        self.state.take_sandbox(&before);
        self.rest_ports(Some(&before), None);
        self.changes.push(Change::Sandbox {
            before: Some(before.clone()),
            after: None,
            replaced,
        });
        // What it had replaced and is not cleared away yet is what its id stands for now.
        if let Some(older) = self.state.sandbox(&before.id).filter(|_| !replaced).cloned() {
            self.changes.push(Change::Sandbox {
                before: None,
                after: Some(older),
                replaced: false,
            });
        }
    }

    /// Lays to rest what `before` held and `after` does not.
    fn rest_ports(&mut self, before: Option<&Sandbox>, after: Option<&Sandbox>) {
        let kept: Vec<_> = after.into_iter().flat_map(held_ports).collect();
        for (node, port) in before.into_iter().flat_map(held_ports) {
            if !kept.contains(&(node, port)) {
                let since = self.stamp.now;
                self.state.resting.insert(node, port, since);
                self.records.push(stored::released_port(node, port, since));
            }
        }
    }

    fn is_replaced(&self, sandbox: &Sandbox) -> bool {
        self.state.uids_of(&sandbox.id).next_back() > Some(sandbox.uid)
    }

    pub(super) fn put_node(&mut self, mut node: Node) -> Arc<Node> {
        node.updated_at = self.stamp.now;
        node.resource_version = self.stamp.index;
        let before = self.state.nodes.get(&node.id);
        events::note_node(before.map(AsRef::as_ref), &mut node, self.stamp.now);
        let after = Arc::new(node);
        let before = self.state.nodes.insert(after.id.clone(), after.clone());
        self.changes.push(Change::Node {
            before,
            after: Some(after.clone()),
        });
        after
    }

    pub(super) fn remove_node(&mut self, id: &NodeId) {
        if let Some(before) = self.state.nodes.remove(id) {
            self.changes.push(Change::Node {
                before: Some(before),
                after: None,
            });
        }
    }

    pub(super) fn put_external(&mut self, mut external: External) -> Arc<External> {
        external.updated_at = self.stamp.now;
        external.resource_version = self.stamp.index;
        let after = Arc::new(external);
        let before = self.state.insert_external(after.clone());
        self.changes.push(Change::External {
            before,
            after: Some(after.clone()),
        });
        after
    }

    /// Creates it, or takes the place of what has its id.
    pub(super) fn put_token(&mut self, token: Token) {
        self.records.push(stored::token(&token));
        self.state.had_tokens = true;
        self.state.tokens.insert(token.id.clone(), Arc::new(token));
    }

    pub(super) fn remove_token(&mut self, id: &str) {
        if let Some(token) = self.state.tokens.remove(id) {
            self.records.push(stored::revoked_token(&token.id));
        }
    }

    /// Takes the place of what was known of the number.
    pub(super) fn put_replica_number(&mut self, number: ReplicaNumber) {
        self.records.push(stored::replica_number(&number));
        self.state.replicas.insert(number.id, number);
    }

    pub(super) fn remove_external(&mut self, id: &ExternalId) {
        if let Some(before) = self.state.externals.remove(id) {
            self.state.external_of.remove(&before.spec.node_id);
            self.changes.push(Change::External {
                before: Some(before),
                after: None,
            });
        }
    }
}

impl State {
    /// Puts it in, indexes included; gives what was there. Also used for loading.
    pub(super) fn insert_sandbox(&mut self, sandbox: Arc<Sandbox>) -> Option<Arc<Sandbox>> {
        let before = self.sandboxes.get(&sandbox.uid).cloned();
        if let Some(before) = &before {
            self.take_sandbox(before);
        }
        self.by_id.insert((sandbox.id.clone(), sandbox.uid));
        if let Some(node) = &sandbox.status.node_name {
            let placed = self.placed.entry(node.clone()).or_default();
            placed.uids.insert(sandbox.uid);
            placed.count(&sandbox);
        }
        self.sandboxes.insert(sandbox.uid, sandbox);
        before
    }

    fn take_sandbox(&mut self, sandbox: &Sandbox) {
        self.sandboxes.remove(&sandbox.uid);
        self.by_id.remove(&(sandbox.id.clone(), sandbox.uid));
        let Some(node) = &sandbox.status.node_name else {
            return;
        };
        if let Some(placed) = self.placed.get_mut(node) {
            placed.uids.remove(&sandbox.uid);
            placed.discount(sandbox);
            if placed.uids.is_empty() {
                self.placed.remove(node);
            }
        }
    }

    pub(super) fn insert_external(&mut self, external: Arc<External>) -> Option<Arc<External>> {
        let before = self.externals.insert(external.id.clone(), external.clone());
        if let Some(before) = &before {
            self.external_of.remove(&before.spec.node_id);
        }
        self.external_of
            .insert(external.spec.node_id.clone(), external.id.clone());
        before
    }
}

/// The ports that it keeps others from, with their node.
fn held_ports(sandbox: &Sandbox) -> impl Iterator<Item = (&NodeId, HostPort)> {
    let node = placement::taken_node(sandbox);
    let ports = placement::host_ports(sandbox);
    node.into_iter()
        .flat_map(move |node| ports.clone().map(move |port| (node, port)))
}

impl Placed {
    fn count(&mut self, sandbox: &Sandbox) {
        if placement::taken_node(sandbox).is_none() {
            return;
        }
        let demand = budget::demand(&sandbox.spec);
        self.usage.cpu += demand.cpu;
        self.usage.memory += demand.memory;
        self.usage.sandboxes += 1;
        self.usage.ports.extend(placement::host_ports(sandbox));
    }

    fn discount(&mut self, sandbox: &Sandbox) {
        if placement::taken_node(sandbox).is_none() {
            return;
        }
        let demand = budget::demand(&sandbox.spec);
        self.usage.cpu = self.usage.cpu.saturating_sub(demand.cpu);
        self.usage.memory = self.usage.memory.saturating_sub(demand.memory);
        self.usage.sandboxes -= 1;
        for port in placement::host_ports(sandbox) {
            self.usage.ports.remove(&port);
        }
    }
}

//! Host ports that were given back and are not to be used again for a while, on all nodes. Owns how long. Changed by
//! `transaction` and asked by `sandbox` when a placement takes effect; `schedule` has one of its own to choose by.

use proto::id::NodeId;
use proto::spec::Protocol;
use proto::units::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A port rests this long after its release, so that who still holds the old address does not reach a stranger: as
/// long as Linux keeps a closed connection in TIME_WAIT.
pub const PORT_REST: Duration = Duration::from_secs(60);

/// One number of one protocol on a node.
pub type HostPort = (Protocol, u16);

/// Bounded by what can be released within [`PORT_REST`].
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Resting {
    since: BTreeMap<NodeId, BTreeMap<HostPort, Timestamp>>,
    by_age: BTreeSet<(Timestamp, NodeId, HostPort)>,
}

impl Resting {
    pub(crate) fn contains(&self, node: &NodeId, port: HostPort) -> bool {
        self.since
            .get(node)
            .is_some_and(|ports| ports.contains_key(&port))
    }

    /// With the time of their release.
    pub(crate) fn of(&self, node: &NodeId) -> impl Iterator<Item = (HostPort, Timestamp)> + use<'_> {
        let ports = self.since.get(node).into_iter().flatten();
        ports.map(|(port, since)| (*port, *since))
    }

    /// Begins a rest. Also used for loading.
    pub(crate) fn insert(&mut self, node: &NodeId, port: HostPort, since: Timestamp) {
        let ports = self.since.entry(node.clone()).or_default();
        if let Some(before) = ports.insert(port, since) {
            self.by_age.remove(&(before, node.clone(), port));
        }
        self.by_age.insert((since, node.clone(), port));
    }

    /// Ends a rest early: the port is in use.
    pub(crate) fn remove(&mut self, node: &NodeId, port: HostPort) {
        let Some(ports) = self.since.get_mut(node) else {
            return;
        };
        if let Some(since) = ports.remove(&port) {
            self.by_age.remove(&(since, node.clone(), port));
        }
        if ports.is_empty() {
            self.since.remove(node);
        }
    }

    /// Ends those rests whose time is over, so that none that is there is over.
    pub(crate) fn end(&mut self, now: Timestamp) -> Vec<(NodeId, HostPort)> {
        let mut ended = Vec::new();
        while let Some((since, ..)) = self.by_age.first() {
            if now.since(*since) < PORT_REST {
                break;
            }
            let Some((_, node, port)) = self.by_age.pop_first() else {
                break;
            };
            if let Some(ports) = self.since.get_mut(&node) {
                ports.remove(&port);
                if ports.is_empty() {
                    self.since.remove(&node);
                }
            }
            ended.push((node, port));
        }
        ended
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, HostPort, Timestamp)> {
        self.by_age
            .iter()
            .map(|(since, node, port)| (node, *port, *since))
    }

    /// Whether both views hold the same.
    pub(super) fn is_consistent(&self) -> bool {
        let by_node = self.since.iter();
        let all =
            by_node.flat_map(|(node, ports)| ports.iter().map(move |(port, at)| (*at, node.clone(), *port)));
        all.collect::<BTreeSet<_>>() == self.by_age && self.since.values().all(|ports| !ports.is_empty())
    }
}

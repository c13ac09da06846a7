//! The objects of a cluster: wishes and status together, as the replicated state holds them.

use crate::event::Event;
use crate::id::{ExternalId, NodeId, SandboxId, Uid};
use crate::spec::{ExternalSpec, Labels, NodeSpec, SandboxSpec};
use crate::status::{NodeReport, NodeState, SandboxStatus};
use crate::units::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Sandbox,
    Node,
    External,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub id: SandboxId,
    pub uid: Uid,
    pub labels: Labels,
    pub spec: SandboxSpec,
    pub status: SandboxStatus,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Index of the log entry that changed it last.
    pub resource_version: u64,
    /// What has happened to it, oldest first; at most [`Event::KEPT`].
    pub events: Vec<Event>,
    /// Of the request that has made it; empty: none is known.
    pub trace_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    /// From the manifest.
    pub labels: Labels,
    /// From the agent; the manifest's win.
    pub reported_labels: Labels,
    pub spec: NodeSpec,
    pub state: NodeState,
    pub last_error: String,
    /// `None`: no agent was ever here.
    pub report: Option<NodeReport>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub resource_version: u64,
    /// When a drain gives up what is still there; `None`: none is under way.
    pub drain_until: Option<Timestamp>,
    /// What has happened to it, oldest first; at most [`Event::KEPT`].
    pub events: Vec<Event>,
}

impl Node {
    /// A label that every node has, with its id: selects this very one. What is set under that name is not seen.
    pub const LABEL: &'static str = "sandboxd.o/node";

    /// The labels that selectors see.
    #[must_use]
    pub fn effective_label(&self, key: &str) -> Option<&str> {
        if key == Self::LABEL {
            return Some(self.id.as_str());
        }
        self.labels
            .get(key)
            .or_else(|| self.reported_labels.get(key))
            .map(String::as_str)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    pub id: ExternalId,
    pub labels: Labels,
    pub spec: ExternalSpec,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub resource_version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    Sandbox(Box<Sandbox>),
    Node(Box<Node>),
    External(External),
}

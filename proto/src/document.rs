//! Objects as JSON or YAML, in the form that the contract gives them (section 5): what the REST interface answers
//! and `sbxctl get -o json` prints, so that a script may read either. Pure.

use crate::convert::ConvertError;
use crate::event::Event;
use crate::object::{External, Node, Sandbox};
use crate::spec::{ExternalSpec, Labels, SandboxSpec};
use crate::status::{NodeState, RuntimeInfo, SandboxStatus};
use crate::units::Timestamp;
use crate::wire::{self, object::Object};
use serde::Serialize;

/// Shown where there is no public name.
pub const NO_EXTERNAL: &str = "(none)";

/// An object of any kind.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Document {
    Sandbox(Box<SandboxDocument>),
    Node(Box<NodeDocument>),
    External(ExternalDocument),
}

#[derive(Debug, Serialize)]
pub struct Metadata {
    pub labels: Labels,
}

#[derive(Debug, Serialize)]
pub struct SandboxDocument {
    pub id: String,
    pub metadata: Metadata,
    pub spec: SandboxSpec,
    pub status: StatusDocument,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Of the log's entry that has changed it last: what a change may be made conditional on.
    pub resource_version: u64,
    /// Where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

#[derive(Debug, Serialize)]
pub struct StatusDocument {
    #[serde(flatten)]
    pub status: SandboxStatus,
    pub external: String,
}

#[derive(Debug, Serialize)]
pub struct NodeDocument {
    pub id: String,
    /// The same, for those who look for a name.
    pub name: String,
    pub metadata: Metadata,
    pub ip: Option<String>,
    pub port: Option<u16>,
    pub unschedulable: bool,
    /// When a drain gives up what is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_until: Option<Timestamp>,
    pub state: NodeState,
    pub last_error: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Of the log's entry that has changed it last: what a change may be made conditional on.
    pub resource_version: u64,
    /// Where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    pub last_heartbeat: Option<Timestamp>,
    pub resources: Resources,
    /// Empty until an agent has registered.
    pub runtimes: Vec<RuntimeInfo>,
    /// Whether root in a sandbox is nobody on the node; `None`: no agent has said so.
    pub user_namespaces: Option<bool>,
    #[serde(skip)]
    pub agent: AgentInfo,
}

/// What only a wide table shows.
#[derive(Debug, Default)]
pub struct AgentInfo {
    pub version: String,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup_mode: String,
    pub kernel: String,
    /// Placed on the node and not ended.
    pub sandboxes: u32,
}

/// What a node has, what of it sandboxes may take, and what they take.
#[derive(Debug, Default, Serialize)]
pub struct Resources {
    pub capacity_cpu_milli: u64,
    pub capacity_memory_bytes: u64,
    pub allocatable_cpu_milli: u64,
    pub allocatable_memory_bytes: u64,
    pub used_cpu_milli: u64,
    pub used_memory_bytes: u64,
    pub available_cpu_milli: u64,
    pub available_memory_bytes: u64,
    pub max_alloc_percent: u8,
    pub external: String,
    pub updated_at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub struct ExternalDocument {
    pub id: String,
    pub metadata: Metadata,
    pub spec: ExternalSpec,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Of the log's entry that has changed it last: what a change may be made conditional on.
    pub resource_version: u64,
}

fn external_or_none(external: String) -> String {
    if external.is_empty() {
        NO_EXTERNAL.to_owned()
    } else {
        external
    }
}

impl Document {
    /// Under which an answer holds it.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Sandbox(_) => "sandbox",
            Self::Node(_) => "node",
            Self::External(_) => "external",
        }
    }
}

impl TryFrom<wire::Object> for Document {
    type Error = ConvertError;

    fn try_from(object: wire::Object) -> Result<Self, ConvertError> {
        match object.object.ok_or(ConvertError::Missing { field: "object" })? {
            Object::Sandbox(s) => Ok(Self::Sandbox(Box::new(s.try_into()?))),
            Object::Node(n) => Ok(Self::Node(Box::new(n.try_into()?))),
            Object::External(e) => Ok(Self::External(e.try_into()?)),
        }
    }
}

impl TryFrom<wire::Sandbox> for SandboxDocument {
    type Error = ConvertError;

    fn try_from(mut wire: wire::Sandbox) -> Result<Self, ConvertError> {
        let external = wire
            .status
            .as_mut()
            .map(|s| std::mem::take(&mut s.external))
            .unwrap_or_default();
        let sandbox = Sandbox::try_from(wire)?;
        Ok(Self {
            id: sandbox.id.to_string(),
            metadata: Metadata {
                labels: sandbox.labels,
            },
            spec: sandbox.spec,
            status: StatusDocument {
                status: sandbox.status,
                external: external_or_none(external),
            },
            created_at: sandbox.created_at,
            updated_at: sandbox.updated_at,
            resource_version: sandbox.resource_version,
            events: sandbox.events,
        })
    }
}

impl TryFrom<wire::Node> for NodeDocument {
    type Error = ConvertError;

    fn try_from(mut wire: wire::Node) -> Result<Self, ConvertError> {
        let usage = wire.usage.take().unwrap_or_default();
        let last_heartbeat = Timestamp::from_wire(wire.last_heartbeat_ms);
        let mut resources = Resources {
            used_cpu_milli: usage.cpu_milli,
            used_memory_bytes: usage.memory_bytes,
            external: external_or_none(std::mem::take(&mut wire.external)),
            updated_at: last_heartbeat,
            ..Resources::default()
        };
        let node = Node::try_from(wire)?;
        let (mut ip, mut port, mut runtimes) = (node.spec.ip, node.spec.port, Vec::new());
        let mut user_namespaces = None;
        let mut agent = AgentInfo::default();
        if let Some(report) = node.report {
            let (cpu, memory) = report.capacity.allocatable();
            resources.capacity_cpu_milli = report.capacity.cpu.0;
            resources.capacity_memory_bytes = report.capacity.memory.0;
            resources.allocatable_cpu_milli = cpu.0;
            resources.allocatable_memory_bytes = memory.0;
            resources.available_cpu_milli = cpu.0.saturating_sub(usage.cpu_milli);
            resources.available_memory_bytes = memory.0.saturating_sub(usage.memory_bytes);
            resources.max_alloc_percent = report.capacity.max_alloc_percent;
            ip = ip.or(report.ip);
            port = port.or((report.port != 0).then_some(report.port));
            runtimes = report.runtimes;
            user_namespaces = report.user_namespaces;
            agent = AgentInfo {
                version: report.agent_version,
                cgroup_mode: report.cgroup_mode,
                kernel: report.kernel,
                sandboxes: usage.sandboxes,
            };
        }
        // What the manifest says wins.
        let mut labels = node.reported_labels;
        labels.extend(node.labels);
        Ok(Self {
            id: node.id.to_string(),
            name: node.id.to_string(),
            metadata: Metadata { labels },
            ip: ip.map(|ip| ip.to_string()),
            port,
            unschedulable: node.spec.unschedulable,
            drain_until: node.drain_until,
            state: node.state,
            last_error: node.last_error,
            created_at: node.created_at,
            updated_at: node.updated_at,
            resource_version: node.resource_version,
            events: node.events,
            last_heartbeat,
            resources,
            runtimes,
            user_namespaces,
            agent,
        })
    }
}

impl TryFrom<wire::External> for ExternalDocument {
    type Error = ConvertError;

    fn try_from(wire: wire::External) -> Result<Self, ConvertError> {
        let external = External::try_from(wire)?;
        Ok(Self {
            id: external.id.to_string(),
            metadata: Metadata {
                labels: external.labels,
            },
            spec: external.spec,
            created_at: external.created_at,
            updated_at: external.updated_at,
            resource_version: external.resource_version,
        })
    }
}

/// The replicas of a cluster, as one of them or its leader sees them.
#[derive(Debug, Serialize)]
pub struct ClusterDocument {
    pub replicas: Vec<ReplicaDocument>,
    /// `null` where none is known.
    pub leader_id: Option<u64>,
    pub term: u64,
    pub last_applied: u64,
    pub answered_by: u64,
    /// The format level that all replicas have reached together.
    pub level: u32,
}

#[derive(Debug, Serialize)]
pub struct ReplicaDocument {
    pub id: u64,
    pub role: &'static str,
    pub endpoint: String,
    pub peer_endpoint: String,
    pub reachable: bool,
    /// `null` where it is not known.
    pub matched_index: Option<u64>,
    pub lag: u64,
    /// The greatest format level that it can apply; `null` where it is not known, as the next.
    pub level: Option<u32>,
    pub version: Option<String>,
}

impl From<wire::ClusterResponse> for ClusterDocument {
    fn from(cluster: wire::ClusterResponse) -> Self {
        Self {
            replicas: cluster.replicas.into_iter().map(ReplicaDocument::from).collect(),
            leader_id: (cluster.leader_id != 0).then_some(cluster.leader_id),
            term: cluster.term,
            last_applied: cluster.last_applied,
            answered_by: cluster.answered_by,
            level: cluster.level,
        }
    }
}

impl From<wire::Replica> for ReplicaDocument {
    fn from(replica: wire::Replica) -> Self {
        let software = replica.software;
        Self {
            id: replica.id,
            role: match (replica.leader, replica.voter) {
                (true, _) => "leader",
                (false, true) => "follower",
                (false, false) => "learner",
            },
            endpoint: replica.endpoint,
            peer_endpoint: replica.peer_endpoint,
            reachable: replica.reachable,
            matched_index: (replica.matched_index != 0).then_some(replica.matched_index),
            lag: replica.lag,
            level: software.as_ref().map(|software| software.level),
            version: software
                .map(|software| software.version)
                .filter(|version| !version.is_empty()),
        }
    }
}

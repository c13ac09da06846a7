//! Objects as JSON, in the form that the contract gives them (section 5). Pure.

use proto::convert::ConvertError;
use proto::object::{External, Node, Sandbox};
use proto::spec::{ExternalSpec, Labels, SandboxSpec};
use proto::status::{NodeState, RuntimeInfo, SandboxStatus};
use proto::units::Timestamp;
use proto::wire::{self, object::Object};
use serde::Serialize;

/// Shown where there is no public name.
const NO_EXTERNAL: &str = "(none)";

/// An object of any kind.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Document {
    Sandbox(Box<SandboxDocument>),
    Node(Box<NodeDocument>),
    External(ExternalDocument),
}

#[derive(Debug, Serialize)]
pub(super) struct Metadata {
    labels: Labels,
}

#[derive(Debug, Serialize)]
pub(super) struct SandboxDocument {
    id: String,
    metadata: Metadata,
    spec: SandboxSpec,
    status: StatusDocument,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct StatusDocument {
    #[serde(flatten)]
    status: SandboxStatus,
    external: String,
}

#[derive(Debug, Serialize)]
pub(super) struct NodeDocument {
    id: String,
    /// The same, for those who look for a name.
    name: String,
    metadata: Metadata,
    ip: Option<String>,
    port: Option<u16>,
    unschedulable: bool,
    state: NodeState,
    last_error: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    last_heartbeat: Option<Timestamp>,
    resources: Resources,
    /// Empty until an agent has registered.
    runtimes: Vec<RuntimeInfo>,
}

#[derive(Debug, Default, Serialize)]
struct Resources {
    capacity_cpu_milli: u64,
    capacity_memory_bytes: u64,
    allocatable_cpu_milli: u64,
    allocatable_memory_bytes: u64,
    used_cpu_milli: u64,
    used_memory_bytes: u64,
    available_cpu_milli: u64,
    available_memory_bytes: u64,
    max_alloc_percent: u8,
    external: String,
    updated_at: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub(super) struct ExternalDocument {
    id: String,
    metadata: Metadata,
    spec: ExternalSpec,
    created_at: Timestamp,
    updated_at: Timestamp,
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
    pub(super) fn key(&self) -> &'static str {
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
            state: node.state,
            last_error: node.last_error,
            created_at: node.created_at,
            updated_at: node.updated_at,
            last_heartbeat,
            resources,
            runtimes,
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
        })
    }
}

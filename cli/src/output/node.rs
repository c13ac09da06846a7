//! A node as row and document.

use super::sandbox::Metadata;
use super::{NO_EXTERNAL, or_dash, span};
use proto::convert::ConvertError;
use proto::object::Node;
use proto::spec::Labels;
use proto::status::{NodeState, RuntimeInfo};
use proto::units::{Bytes, MilliCpu, Timestamp};
use proto::wire;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct NodeView {
    id: String,
    /// The same, for those who look for a name.
    name: String,
    metadata: Metadata,
    ip: Option<String>,
    port: Option<u16>,
    unschedulable: bool,
    #[serde(serialize_with = "state_text")]
    state: NodeState,
    last_error: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    last_heartbeat: Option<Timestamp>,
    resources: Resources,
    /// Empty until an agent has registered.
    runtimes: Vec<RuntimeInfo>,
    #[serde(skip)]
    agent: Agent,
}

/// What only the wide table shows.
#[derive(Debug, Default)]
struct Agent {
    version: String,
    cgroup_mode: String,
    kernel: String,
    sandboxes: u32,
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

fn state_text<S: serde::Serializer>(state: &NodeState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(state)
}

impl TryFrom<wire::Node> for NodeView {
    type Error = ConvertError;

    fn try_from(wire: wire::Node) -> Result<Self, ConvertError> {
        let usage = wire.usage.unwrap_or_default();
        let external = wire.external.clone();
        let last_heartbeat = Timestamp::from_wire(wire.last_heartbeat_ms);
        let node = Node::try_from(wire)?;
        let mut resources = Resources {
            used_cpu_milli: usage.cpu_milli,
            used_memory_bytes: usage.memory_bytes,
            external: if external.is_empty() {
                NO_EXTERNAL.to_owned()
            } else {
                external
            },
            updated_at: last_heartbeat,
            ..Resources::default()
        };
        let mut labels: Labels = node.reported_labels;
        labels.extend(node.labels);
        let mut view = Self {
            name: node.id.to_string(),
            id: node.id.to_string(),
            metadata: Metadata { labels },
            ip: node.spec.ip.map(|ip| ip.to_string()),
            port: node.spec.port,
            unschedulable: node.spec.unschedulable,
            state: node.state,
            last_error: node.last_error,
            created_at: node.created_at,
            updated_at: node.updated_at,
            last_heartbeat,
            resources: Resources::default(),
            runtimes: Vec::new(),
            agent: Agent::default(),
        };
        if let Some(report) = node.report {
            let (cpu, memory) = report.capacity.allocatable();
            resources.capacity_cpu_milli = report.capacity.cpu.0;
            resources.capacity_memory_bytes = report.capacity.memory.0;
            resources.allocatable_cpu_milli = cpu.0;
            resources.allocatable_memory_bytes = memory.0;
            resources.available_cpu_milli = cpu.0.saturating_sub(usage.cpu_milli);
            resources.available_memory_bytes = memory.0.saturating_sub(usage.memory_bytes);
            resources.max_alloc_percent = report.capacity.max_alloc_percent;
            view.ip = view.ip.or(report.ip.map(|ip| ip.to_string()));
            view.port = view.port.or((report.port != 0).then_some(report.port));
            view.runtimes = report.runtimes;
            view.agent = Agent {
                version: report.agent_version,
                cgroup_mode: report.cgroup_mode,
                kernel: report.kernel,
                sandboxes: usage.sandboxes,
            };
        }
        view.resources = resources;
        Ok(view)
    }
}

pub(super) fn header(wide: bool) -> Vec<&'static str> {
    let mut header = vec!["ID", "STATE", "IP", "SANDBOXES", "CPU", "MEMORY", "AGE"];
    if wide {
        header.extend([
            "EXTERNAL",
            "HEARTBEAT",
            "RUNTIMES",
            "CGROUPS",
            "KERNEL",
            "VERSION",
            "LABELS",
        ]);
    }
    header.push("MESSAGE");
    header
}

impl NodeView {
    pub(super) fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let r = &self.resources;
        let state = if self.unschedulable {
            format!("{},Unschedulable", self.state)
        } else {
            self.state.to_string()
        };
        let mut row = vec![
            self.id.clone(),
            state,
            self.ip.clone().unwrap_or("-".to_owned()),
            self.agent.sandboxes.to_string(),
            format!(
                "{}/{}",
                MilliCpu(r.used_cpu_milli),
                MilliCpu(r.allocatable_cpu_milli)
            ),
            format!(
                "{}/{}",
                mebibytes(r.used_memory_bytes),
                mebibytes(r.allocatable_memory_bytes)
            ),
            span(now.since(self.created_at)),
        ];
        if wide {
            row.extend([
                r.external.clone(),
                match self.last_heartbeat {
                    Some(at) => format!("{} ago", span(now.since(at))),
                    None => "-".to_owned(),
                },
                self.runtimes(),
                or_dash(&self.agent.cgroup_mode),
                or_dash(&self.agent.kernel),
                or_dash(&self.agent.version),
                super::labels(&self.metadata.labels),
            ]);
        }
        row.push(or_dash(&self.last_error));
        row
    }

    fn runtimes(&self) -> String {
        let names: Vec<&str> = self.runtimes.iter().map(|r| r.runtime.as_str()).collect();
        or_dash(&names.join(","))
    }
}

/// Whole mebibytes, so that the two halves of a cell compare at a glance.
fn mebibytes(bytes: u64) -> Bytes {
    Bytes::mib(bytes / proto::units::MIB)
}

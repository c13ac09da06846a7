//! Between [`crate::wire`] and the checked types: the only file that sees both.
//!
//! Encoding is total. Decoding checks again whatever a type promises, because the bytes may come from a
//! client of another version; cross-field rules of a whole manifest are [`crate::manifest::check`]'s, which
//! every decoded manifest passes through.

use crate::event::Event;
use crate::id::{ExternalId, IdError, Name, NodeId, SandboxId, Uid};
use crate::object::{External, Kind, Node, Object, Sandbox};
use crate::spec::{
    Container, EgressRule, ExternalSpec, Manifest, NodeSpec, OnNodeLoss, Port, Probe, ProbeCheck, Protocol,
    Resource, Runtime, SandboxSpec, TmpfsMount, Volume, VolumeMount,
};
use crate::status::{
    AssignedPort, Capacity, Condition, ContainerState, ContainerStatus, EarlierPlacement, NodeReport,
    NodeState, Phase, Reason, RuntimeInfo, SandboxStatus,
};
use crate::units::{Bytes, MilliCpu, Timestamp};
use crate::{manifest, wire};
use std::net::IpAddr;

/// Why a message is not a value of ours. The text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("{field}: missing")]
    Missing { field: &'static str },
    #[error("{field}: `{value}` {source}")]
    Id {
        field: &'static str,
        value: String,
        source: IdError,
    },
    #[error("{field}: {value} is not known here; the sender may be newer than this program")]
    Unknown { field: &'static str, value: i32 },
    #[error("{field}: `{value}` is out of range")]
    Range { field: &'static str, value: u64 },
    #[error("{field}: `{value}` {why}")]
    Malformed {
        field: &'static str,
        value: String,
        why: String,
    },
    #[error("{0}")]
    Rules(#[from] manifest::Faults),
}

type Result<T> = std::result::Result<T, ConvertError>;

fn required<T>(field: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or(ConvertError::Missing { field })
}

fn id<T: std::str::FromStr<Err = IdError>>(field: &'static str, value: String) -> Result<T> {
    value
        .parse()
        .map_err(|source| ConvertError::Id { field, value, source })
}

/// A number that must fit into a smaller type.
fn narrow<T: TryFrom<u32>>(field: &'static str, value: u32) -> Result<T> {
    T::try_from(value).map_err(|_| ConvertError::Range {
        field,
        value: u64::from(value),
    })
}

/// An address, where empty stands for "none".
fn address(field: &'static str, value: &str) -> Result<Option<IpAddr>> {
    if value.is_empty() {
        return Ok(None);
    }
    value
        .parse()
        .map(Some)
        .map_err(|e: std::net::AddrParseError| ConvertError::Malformed {
            field,
            value: value.to_owned(),
            why: e.to_string(),
        })
}

fn address_text(address: Option<IpAddr>) -> String {
    address.map(|a| a.to_string()).unwrap_or_default()
}

fn ms(time: Option<Timestamp>) -> u64 {
    time.map_or(0, |t| t.0)
}

fn all<W, T>(items: Vec<W>) -> Result<Vec<T>>
where
    T: TryFrom<W, Error = ConvertError>,
{
    items.into_iter().map(T::try_from).collect()
}

fn wired<'a, T: 'a, W: From<&'a T>>(items: &'a [T]) -> Vec<W> {
    items.iter().map(W::from).collect()
}

/// The value of an enum field, or why it is none.
fn known<W: TryFrom<i32>>(field: &'static str, value: i32) -> Result<W> {
    W::try_from(value).map_err(|_| ConvertError::Unknown { field, value })
}

/// Maps a checked enum to its wire twin and back; `Unspecified` is refused.
macro_rules! twin_enum {
    ($ours:ident, $field:literal, $($variant:ident),+) => {
        impl From<$ours> for wire::$ours {
            fn from(value: $ours) -> Self {
                match value { $($ours::$variant => Self::$variant),+ }
            }
        }
        impl TryFrom<wire::$ours> for $ours {
            type Error = ConvertError;
            fn try_from(value: wire::$ours) -> Result<Self> {
                match value {
                    $(wire::$ours::$variant => Ok(Self::$variant),)+
                    wire::$ours::Unspecified => Err(ConvertError::Missing { field: $field }),
                }
            }
        }
    };
}
twin_enum!(Protocol, "protocol", Tcp, Udp);
twin_enum!(Runtime, "runtime", Native, Runc, Crun, Runsc);
twin_enum!(OnNodeLoss, "on_node_loss", Fail, Reschedule);
twin_enum!(
    Phase, "phase", Pending, Scheduled, Running, Succeeded, Failed, Deleting
);
twin_enum!(
    Reason,
    "reason",
    ImagePullFailed,
    StartFailed,
    ProbeFailed,
    OomKilled,
    ContainerExited,
    NodeLost,
    AgentError
);
twin_enum!(ContainerState, "state", Waiting, Running, Exited);
twin_enum!(NodeState, "state", Unknown, Ready, NotReady, Lost);
twin_enum!(Kind, "kind", Sandbox, Node, External);

/// An enum field for which unspecified means "none".
fn optional<W, T>(field: &'static str, value: i32, none: W) -> Result<Option<T>>
where
    W: TryFrom<i32> + PartialEq,
    T: TryFrom<W, Error = ConvertError>,
{
    let value = known::<W>(field, value)?;
    if value == none {
        Ok(None)
    } else {
        T::try_from(value).map(Some)
    }
}

fn present<W, T>(field: &'static str, value: i32) -> Result<T>
where
    W: TryFrom<i32>,
    T: TryFrom<W, Error = ConvertError>,
{
    T::try_from(known::<W>(field, value)?)
}

// ---- specification ------------------------------------------------------------------------------

impl From<&SandboxSpec> for wire::SandboxSpec {
    fn from(s: &SandboxSpec) -> Self {
        Self {
            egress: s.egress,
            egress_allow: wired(&s.egress_allow),
            ttl_seconds: s.ttl_seconds,
            node_selector: s.node_selector.clone(),
            runtime: s.runtime.map_or(wire::Runtime::Unspecified, Into::into).into(),
            priority: s.priority,
            on_node_loss: wire::OnNodeLoss::from(s.on_node_loss).into(),
            ports: wired(&s.ports),
            volumes: wired(&s.volumes),
            readiness_probe: s.readiness_probe.as_ref().map(Into::into),
            containers: wired(&s.containers),
        }
    }
}

impl TryFrom<wire::SandboxSpec> for SandboxSpec {
    type Error = ConvertError;
    fn try_from(w: wire::SandboxSpec) -> Result<Self> {
        let spec = Self {
            egress: w.egress,
            egress_allow: all(w.egress_allow)?,
            ttl_seconds: w.ttl_seconds,
            node_selector: w.node_selector,
            runtime: optional("runtime", w.runtime, wire::Runtime::Unspecified)?,
            priority: w.priority,
            on_node_loss: optional("on_node_loss", w.on_node_loss, wire::OnNodeLoss::Unspecified)?
                .unwrap_or_default(),
            ports: all(w.ports)?,
            volumes: all(w.volumes)?,
            readiness_probe: w.readiness_probe.map(Probe::try_from).transpose()?,
            containers: all(w.containers)?,
        };
        manifest::check(&spec)?;
        Ok(spec)
    }
}

impl From<&EgressRule> for wire::EgressRule {
    fn from(r: &EgressRule) -> Self {
        let (port, protocol) = match r.port {
            Some((port, protocol)) => (u32::from(port), wire::Protocol::from(protocol)),
            None => (0, wire::Protocol::Unspecified),
        };
        Self {
            cidr: r.cidr.to_string(),
            port,
            protocol: protocol.into(),
        }
    }
}

impl TryFrom<wire::EgressRule> for EgressRule {
    type Error = ConvertError;
    fn try_from(w: wire::EgressRule) -> Result<Self> {
        let cidr = manifest::parse_cidr(&w.cidr).map_err(|why| ConvertError::Malformed {
            field: "egress_allow",
            value: w.cidr.clone(),
            why,
        })?;
        let port = match w.port {
            0 => None,
            port => Some((
                narrow("egress_allow.port", port)?,
                present::<wire::Protocol, _>("protocol", w.protocol)?,
            )),
        };
        Ok(Self { cidr, port })
    }
}

impl From<&Port> for wire::Port {
    fn from(p: &Port) -> Self {
        Self {
            container_port: p.container_port.into(),
            protocol: wire::Protocol::from(p.protocol).into(),
        }
    }
}

impl TryFrom<wire::Port> for Port {
    type Error = ConvertError;
    fn try_from(w: wire::Port) -> Result<Self> {
        Ok(Self {
            container_port: narrow("container_port", w.container_port)?,
            protocol: optional("protocol", w.protocol, wire::Protocol::Unspecified)?.unwrap_or(Protocol::Tcp),
        })
    }
}

impl From<&Volume> for wire::Volume {
    fn from(v: &Volume) -> Self {
        Self {
            name: v.name.to_string(),
            size_bytes: v.size.0,
        }
    }
}

impl TryFrom<wire::Volume> for Volume {
    type Error = ConvertError;
    fn try_from(w: wire::Volume) -> Result<Self> {
        Ok(Self {
            name: id("volumes.name", w.name)?,
            size: Bytes(w.size_bytes),
        })
    }
}

impl From<&Probe> for wire::Probe {
    fn from(p: &Probe) -> Self {
        let (http, path) = match &p.check {
            ProbeCheck::Tcp => (false, String::new()),
            ProbeCheck::Http { path } => (true, path.clone()),
        };
        Self {
            http,
            path,
            port: p.port.into(),
            initial_delay_seconds: p.initial_delay_seconds,
            period_seconds: p.period_seconds,
            timeout_seconds: p.timeout_seconds,
            success_threshold: p.success_threshold,
            failure_threshold: p.failure_threshold,
        }
    }
}

impl TryFrom<wire::Probe> for Probe {
    type Error = ConvertError;
    fn try_from(w: wire::Probe) -> Result<Self> {
        Ok(Self {
            check: if w.http {
                ProbeCheck::Http { path: w.path }
            } else {
                ProbeCheck::Tcp
            },
            port: narrow("readiness_probe.port", w.port)?,
            initial_delay_seconds: w.initial_delay_seconds,
            period_seconds: w.period_seconds,
            timeout_seconds: w.timeout_seconds,
            success_threshold: w.success_threshold,
            failure_threshold: w.failure_threshold,
        })
    }
}

impl From<&Container> for wire::Container {
    fn from(c: &Container) -> Self {
        Self {
            name: c.name.to_string(),
            image: c.image.clone(),
            args: c.args.clone(),
            env: c.env.clone(),
            work_dir: c.work_dir.clone().unwrap_or_default(),
            volume_mounts: wired(&c.volume_mounts),
            cap_add: c.cap_add.clone(),
            cap_drop: c.cap_drop.clone(),
            security_opt: c.security_opt.iter().map(ToString::to_string).collect(),
            read_only: c.read_only,
            tmpfs: wired(&c.tmpfs),
            cpu_milli: c.resource.cpu.0,
            memory_bytes: c.resource.memory.0,
            ephemeral_storage_bytes: c.resource.ephemeral_storage.0,
        }
    }
}

impl TryFrom<wire::Container> for Container {
    type Error = ConvertError;
    fn try_from(w: wire::Container) -> Result<Self> {
        let option = |value: String| {
            manifest::parse_security_opt(&value).map_err(|why| ConvertError::Malformed {
                field: "security_opt",
                value,
                why,
            })
        };
        Ok(Self {
            name: id("containers.name", w.name)?,
            image: w.image,
            args: w.args,
            env: w.env,
            work_dir: (!w.work_dir.is_empty()).then_some(w.work_dir),
            volume_mounts: all(w.volume_mounts)?,
            cap_add: w.cap_add,
            cap_drop: w.cap_drop,
            security_opt: w.security_opt.into_iter().map(option).collect::<Result<_>>()?,
            read_only: w.read_only,
            tmpfs: all(w.tmpfs)?,
            resource: Resource {
                cpu: MilliCpu(w.cpu_milli),
                memory: Bytes(w.memory_bytes),
                ephemeral_storage: Bytes(w.ephemeral_storage_bytes),
            },
        })
    }
}

impl From<&VolumeMount> for wire::VolumeMount {
    fn from(m: &VolumeMount) -> Self {
        Self {
            name: m.name.to_string(),
            mount_path: m.mount_path.clone(),
            read_only: m.read_only,
        }
    }
}

impl TryFrom<wire::VolumeMount> for VolumeMount {
    type Error = ConvertError;
    fn try_from(w: wire::VolumeMount) -> Result<Self> {
        Ok(Self {
            name: id("volume_mounts.name", w.name)?,
            mount_path: w.mount_path,
            read_only: w.read_only,
        })
    }
}

impl From<&TmpfsMount> for wire::TmpfsMount {
    fn from(m: &TmpfsMount) -> Self {
        Self {
            mount_path: m.mount_path.clone(),
            options: m.options.given.clone(),
        }
    }
}

impl TryFrom<wire::TmpfsMount> for TmpfsMount {
    type Error = ConvertError;
    fn try_from(w: wire::TmpfsMount) -> Result<Self> {
        let options =
            manifest::parse_tmpfs_options(&w.options).map_err(|(value, why)| ConvertError::Malformed {
                field: "tmpfs.options",
                value,
                why,
            })?;
        Ok(Self {
            mount_path: w.mount_path,
            options,
        })
    }
}

impl From<&NodeSpec> for wire::NodeSpec {
    fn from(s: &NodeSpec) -> Self {
        Self {
            ip: address_text(s.ip),
            port: s.port.map_or(0, u32::from),
            unschedulable: s.unschedulable,
        }
    }
}

impl TryFrom<wire::NodeSpec> for NodeSpec {
    type Error = ConvertError;
    fn try_from(w: wire::NodeSpec) -> Result<Self> {
        let ip = address("ip", &w.ip)?;
        if let Some(ip) = ip {
            manifest::check_node_address(ip).map_err(|why| ConvertError::Malformed {
                field: "ip",
                value: w.ip.clone(),
                why,
            })?;
        }
        let port = if w.port == 0 {
            None
        } else {
            Some(narrow("port", w.port)?)
        };
        Ok(Self {
            ip,
            port,
            unschedulable: w.unschedulable,
        })
    }
}

impl From<&ExternalSpec> for wire::ExternalSpec {
    fn from(s: &ExternalSpec) -> Self {
        Self {
            node_id: s.node_id.to_string(),
            external: s.external.clone(),
        }
    }
}

impl TryFrom<wire::ExternalSpec> for ExternalSpec {
    type Error = ConvertError;
    fn try_from(w: wire::ExternalSpec) -> Result<Self> {
        if w.external.is_empty() {
            return Err(ConvertError::Missing { field: "external" });
        }
        Ok(Self {
            node_id: id("node_id", w.node_id)?,
            external: w.external,
        })
    }
}

impl From<&Manifest> for wire::Manifest {
    fn from(m: &Manifest) -> Self {
        use wire::manifest::Spec;
        let (id, labels, spec) = match m {
            Manifest::Sandbox { id, labels, spec } => (id.as_str(), labels, Spec::Sandbox(spec.into())),
            Manifest::Node { id, labels, spec } => (id.as_str(), labels, Spec::Node(spec.into())),
            Manifest::External { id, labels, spec } => (id.as_str(), labels, Spec::External(spec.into())),
        };
        Self {
            id: id.to_owned(),
            labels: labels.clone(),
            spec: Some(spec),
        }
    }
}

impl TryFrom<wire::Manifest> for Manifest {
    type Error = ConvertError;
    fn try_from(w: wire::Manifest) -> Result<Self> {
        use wire::manifest::Spec;
        for (key, value) in &w.labels {
            manifest::check_label(key, value).map_err(|why| ConvertError::Malformed {
                field: "metadata.labels",
                value: format!("{key}={value}"),
                why,
            })?;
        }
        let labels = w.labels;
        Ok(match required("spec", w.spec)? {
            Spec::Sandbox(spec) => Self::Sandbox {
                id: id("id", w.id)?,
                labels,
                spec: spec.try_into()?,
            },
            Spec::Node(spec) => Self::Node {
                id: id("id", w.id)?,
                labels,
                spec: spec.try_into()?,
            },
            Spec::External(spec) => Self::External {
                id: id("id", w.id)?,
                labels,
                spec: spec.try_into()?,
            },
        })
    }
}

// ---- status -------------------------------------------------------------------------------------

impl From<&SandboxStatus> for wire::SandboxStatus {
    fn from(s: &SandboxStatus) -> Self {
        Self {
            phase: wire::Phase::from(s.phase).into(),
            reason: s.reason.map_or(wire::Reason::Unspecified, Into::into).into(),
            last_error: s.last_error.clone(),
            node_name: s.node_name.as_ref().map(ToString::to_string).unwrap_or_default(),
            ip: address_text(s.ip),
            assigned_ports: wired(&s.assigned_ports),
            expire_at_ms: ms(s.expire_at),
            containers: wired(&s.containers),
            timings_ms: s.timings.clone(),
            ended_at_ms: ms(s.ended_at),
            conditions: wired(&s.conditions),
            external: String::new(),
            earlier_placements: wired(&s.earlier_placements),
        }
    }
}

impl TryFrom<wire::SandboxStatus> for SandboxStatus {
    type Error = ConvertError;
    fn try_from(w: wire::SandboxStatus) -> Result<Self> {
        Ok(Self {
            phase: present::<wire::Phase, _>("phase", w.phase)?,
            reason: optional("reason", w.reason, wire::Reason::Unspecified)?,
            last_error: w.last_error,
            node_name: if w.node_name.is_empty() {
                None
            } else {
                Some(id("node_name", w.node_name)?)
            },
            ip: address("ip", &w.ip)?,
            assigned_ports: all(w.assigned_ports)?,
            expire_at: Timestamp::from_wire(w.expire_at_ms),
            ended_at: Timestamp::from_wire(w.ended_at_ms),
            containers: all(w.containers)?,
            timings: w.timings_ms,
            conditions: all(w.conditions)?,
            earlier_placements: all(w.earlier_placements)?,
        })
    }
}

impl From<&EarlierPlacement> for wire::EarlierPlacement {
    fn from(p: &EarlierPlacement) -> Self {
        Self {
            node_name: p.node_name.to_string(),
            ended_at_ms: p.ended_at.0,
            reason: wire::Reason::from(p.reason).into(),
            message: p.message.clone(),
        }
    }
}

impl TryFrom<wire::EarlierPlacement> for EarlierPlacement {
    type Error = ConvertError;
    fn try_from(w: wire::EarlierPlacement) -> Result<Self> {
        Ok(Self {
            node_name: id("node_name", w.node_name)?,
            ended_at: Timestamp(w.ended_at_ms),
            reason: present::<wire::Reason, _>("reason", w.reason)?,
            message: w.message,
        })
    }
}

impl From<&Condition> for wire::Condition {
    fn from(c: &Condition) -> Self {
        Self {
            r#type: c.kind.clone(),
            status: c.status,
            message: c.message.clone(),
            changed_at_ms: c.changed_at.0,
        }
    }
}

impl TryFrom<wire::Condition> for Condition {
    type Error = ConvertError;
    fn try_from(w: wire::Condition) -> Result<Self> {
        let changed_at = Timestamp(w.changed_at_ms);
        Ok(Self {
            kind: w.r#type,
            status: w.status,
            message: w.message,
            changed_at,
        })
    }
}

impl From<&AssignedPort> for wire::AssignedPort {
    fn from(p: &AssignedPort) -> Self {
        Self {
            host_port: p.host_port.into(),
            container_port: p.container_port.into(),
            protocol: wire::Protocol::from(p.protocol).into(),
        }
    }
}

impl TryFrom<wire::AssignedPort> for AssignedPort {
    type Error = ConvertError;
    fn try_from(w: wire::AssignedPort) -> Result<Self> {
        Ok(Self {
            host_port: narrow("host_port", w.host_port)?,
            container_port: narrow("container_port", w.container_port)?,
            protocol: present::<wire::Protocol, _>("protocol", w.protocol)?,
        })
    }
}

impl From<&ContainerStatus> for wire::ContainerStatus {
    fn from(c: &ContainerStatus) -> Self {
        Self {
            name: c.name.to_string(),
            state: wire::ContainerState::from(c.state).into(),
            exit_code: c.exit_code,
            oom_killed: c.oom_killed,
            started_at_ms: ms(c.started_at),
            finished_at_ms: ms(c.finished_at),
            image_digest: c.image_digest.clone(),
        }
    }
}

impl TryFrom<wire::ContainerStatus> for ContainerStatus {
    type Error = ConvertError;
    fn try_from(w: wire::ContainerStatus) -> Result<Self> {
        Ok(Self {
            name: id::<Name>("containers.name", w.name)?,
            state: present::<wire::ContainerState, _>("containers.state", w.state)?,
            exit_code: w.exit_code,
            oom_killed: w.oom_killed,
            started_at: Timestamp::from_wire(w.started_at_ms),
            finished_at: Timestamp::from_wire(w.finished_at_ms),
            image_digest: w.image_digest,
        })
    }
}

impl From<&NodeReport> for wire::NodeReport {
    fn from(r: &NodeReport) -> Self {
        Self {
            ip: address_text(r.ip),
            port: r.port.into(),
            capacity: Some(wire::NodeCapacity {
                cpu_milli: r.capacity.cpu.0,
                memory_bytes: r.capacity.memory.0,
                max_alloc_percent: r.capacity.max_alloc_percent.into(),
            }),
            runtimes: wired(&r.runtimes),
            default_runtime: wire::Runtime::from(r.default_runtime).into(),
            agent_version: r.agent_version.clone(),
            boot_id: r.boot_id.clone(),
            cgroup_mode: r.cgroup_mode.clone(),
            kernel: r.kernel.clone(),
            user_namespaces: r.user_namespaces,
        }
    }
}

impl TryFrom<wire::NodeReport> for NodeReport {
    type Error = ConvertError;
    fn try_from(w: wire::NodeReport) -> Result<Self> {
        let capacity = required("capacity", w.capacity)?;
        let percent = capacity.max_alloc_percent;
        if !(1..=100).contains(&percent) {
            return Err(ConvertError::Range {
                field: "max_alloc_percent",
                value: percent.into(),
            });
        }
        Ok(Self {
            ip: address("ip", &w.ip)?,
            port: narrow("port", w.port)?,
            capacity: Capacity {
                cpu: MilliCpu(capacity.cpu_milli),
                memory: Bytes(capacity.memory_bytes),
                max_alloc_percent: narrow("max_alloc_percent", percent)?,
            },
            runtimes: all(w.runtimes)?,
            default_runtime: present::<wire::Runtime, _>("default_runtime", w.default_runtime)?,
            agent_version: w.agent_version,
            boot_id: w.boot_id,
            cgroup_mode: w.cgroup_mode,
            kernel: w.kernel,
            user_namespaces: w.user_namespaces,
        })
    }
}

impl From<&RuntimeInfo> for wire::RuntimeInfo {
    fn from(r: &RuntimeInfo) -> Self {
        Self {
            runtime: wire::Runtime::from(r.runtime).into(),
            version: r.version.clone(),
        }
    }
}

impl TryFrom<wire::RuntimeInfo> for RuntimeInfo {
    type Error = ConvertError;
    fn try_from(w: wire::RuntimeInfo) -> Result<Self> {
        Ok(Self {
            runtime: present::<wire::Runtime, _>("runtime", w.runtime)?,
            version: w.version,
        })
    }
}

// ---- objects ------------------------------------------------------------------------------------

impl From<&Sandbox> for wire::Sandbox {
    fn from(s: &Sandbox) -> Self {
        Self {
            id: s.id.to_string(),
            uid: s.uid.0,
            labels: s.labels.clone(),
            spec: Some((&s.spec).into()),
            status: Some((&s.status).into()),
            created_at_ms: s.created_at.0,
            updated_at_ms: s.updated_at.0,
            resource_version: s.resource_version,
            // Only where they are asked for.
            events: Vec::new(),
            trace_id: s.trace_id.clone(),
        }
    }
}

impl From<&Event> for wire::Event {
    fn from(e: &Event) -> Self {
        Self {
            reason: e.reason.clone(),
            message: e.message.clone(),
            first_at_ms: e.first_at.0,
            last_at_ms: e.last_at.0,
            count: e.count,
        }
    }
}

impl From<wire::Event> for Event {
    fn from(w: wire::Event) -> Self {
        Self {
            reason: w.reason,
            message: w.message,
            first_at: Timestamp(w.first_at_ms),
            last_at: Timestamp(w.last_at_ms),
            count: w.count,
        }
    }
}

impl TryFrom<wire::Sandbox> for Sandbox {
    type Error = ConvertError;
    fn try_from(w: wire::Sandbox) -> Result<Self> {
        Ok(Self {
            id: id::<SandboxId>("id", w.id)?,
            uid: Uid(w.uid),
            labels: w.labels,
            spec: required("spec", w.spec)?.try_into()?,
            status: required("status", w.status)?.try_into()?,
            created_at: Timestamp(w.created_at_ms),
            updated_at: Timestamp(w.updated_at_ms),
            resource_version: w.resource_version,
            events: w.events.into_iter().map(Event::from).collect(),
            trace_id: w.trace_id,
        })
    }
}

impl From<&Node> for wire::Node {
    fn from(n: &Node) -> Self {
        Self {
            id: n.id.to_string(),
            labels: n.labels.clone(),
            reported_labels: n.reported_labels.clone(),
            spec: Some((&n.spec).into()),
            state: wire::NodeState::from(n.state).into(),
            last_error: n.last_error.clone(),
            report: n.report.as_ref().map(Into::into),
            created_at_ms: n.created_at.0,
            updated_at_ms: n.updated_at.0,
            last_heartbeat_ms: 0,
            resource_version: n.resource_version,
            usage: None,
            external: String::new(),
            drain_until_ms: ms(n.drain_until),
            events: Vec::new(),
        }
    }
}

impl TryFrom<wire::Node> for Node {
    type Error = ConvertError;
    fn try_from(w: wire::Node) -> Result<Self> {
        Ok(Self {
            id: id::<NodeId>("id", w.id)?,
            labels: w.labels,
            reported_labels: w.reported_labels,
            spec: required("spec", w.spec)?.try_into()?,
            state: present::<wire::NodeState, _>("state", w.state)?,
            last_error: w.last_error,
            report: w.report.map(NodeReport::try_from).transpose()?,
            created_at: Timestamp(w.created_at_ms),
            updated_at: Timestamp(w.updated_at_ms),
            resource_version: w.resource_version,
            drain_until: Timestamp::from_wire(w.drain_until_ms),
            events: w.events.into_iter().map(Event::from).collect(),
        })
    }
}

impl From<&External> for wire::External {
    fn from(e: &External) -> Self {
        Self {
            id: e.id.to_string(),
            node_id: e.spec.node_id.to_string(),
            external: e.spec.external.clone(),
            created_at_ms: e.created_at.0,
            updated_at_ms: e.updated_at.0,
            resource_version: e.resource_version,
            labels: e.labels.clone(),
        }
    }
}

impl TryFrom<wire::External> for External {
    type Error = ConvertError;
    fn try_from(w: wire::External) -> Result<Self> {
        Ok(Self {
            id: id::<ExternalId>("id", w.id)?,
            labels: w.labels,
            spec: wire::ExternalSpec {
                node_id: w.node_id,
                external: w.external,
            }
            .try_into()?,
            created_at: Timestamp(w.created_at_ms),
            updated_at: Timestamp(w.updated_at_ms),
            resource_version: w.resource_version,
        })
    }
}

impl From<&Object> for wire::Object {
    fn from(o: &Object) -> Self {
        use wire::object::Object as Wire;
        let object = match o {
            Object::Sandbox(s) => Wire::Sandbox(s.as_ref().into()),
            Object::Node(n) => Wire::Node(n.as_ref().into()),
            Object::External(e) => Wire::External(e.into()),
        };
        Self { object: Some(object) }
    }
}

impl TryFrom<wire::Object> for Object {
    type Error = ConvertError;
    fn try_from(w: wire::Object) -> Result<Self> {
        use wire::object::Object as Wire;
        Ok(match required("object", w.object)? {
            Wire::Sandbox(s) => Self::Sandbox(Box::new(s.try_into()?)),
            Wire::Node(n) => Self::Node(Box::new(n.try_into()?)),
            Wire::External(e) => Self::External(e.try_into()?),
        })
    }
}

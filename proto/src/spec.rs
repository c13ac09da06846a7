//! What a user wishes. Values of these types hold every rule of the contract: they come from
//! [`crate::manifest`] (a user's text) or [`crate::convert`] (what another process has sent), and both check.
//!
//! `Serialize` gives the manifest's own form, so that what is read can be written again.

use crate::id::{ExternalId, Name, NodeId, SandboxId};
use crate::units::{Bytes, MilliCpu};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Key to value, in Kubernetes' label syntax.
pub type Labels = BTreeMap<String, String>;

/// One document of a manifest: identity, labels, wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    Sandbox {
        id: SandboxId,
        labels: Labels,
        spec: SandboxSpec,
    },
    Node {
        id: NodeId,
        labels: Labels,
        spec: NodeSpec,
    },
    External {
        id: ExternalId,
        labels: Labels,
        spec: ExternalSpec,
    },
}

/// A group of containers that share a network and volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SandboxSpec {
    /// May it open connections outwards.
    pub egress: bool,
    /// Allowed although `egress` is false.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub egress_allow: Vec<EgressRule>,
    /// Ends by itself after this time from its creation; 0: never.
    pub ttl_seconds: u64,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub node_selector: Labels,
    /// `None`: the node's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// Higher is placed first.
    pub priority: i32,
    pub on_node_loss: OnNodeLoss,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// At least one; names are unique.
    pub containers: Vec<Container>,
}

/// A destination: `CIDR` or `CIDR:port/proto`; an IPv6 CIDR with a port stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRule {
    pub cidr: Cidr,
    /// `None`: every port and protocol.
    pub port: Option<(u16, Protocol)>,
}

/// An address block; the bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    pub address: IpAddr,
    /// 0..=32 or 0..=128.
    pub prefix: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    Native,
    Runc,
    Crun,
    Runsc,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNodeLoss {
    #[default]
    Fail,
    Reschedule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Port {
    /// 1..=65535
    pub container_port: u16,
    pub protocol: Protocol,
}

/// One tmpfs per sandbox and volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    pub name: Name,
    /// > 0
    #[serde(rename = "ephemeral_storage")]
    pub size: Bytes,
}

/// All periods are >= 1, `initial_delay_seconds` >= 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probe {
    #[serde(flatten)]
    pub check: ProbeCheck,
    /// A declared container port.
    pub port: u16,
    pub initial_delay_seconds: u32,
    pub period_seconds: u32,
    pub timeout_seconds: u32,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "protocol", rename_all = "lowercase")]
pub enum ProbeCheck {
    /// A connection is accepted.
    Tcp,
    /// `GET path` answers 200..=399; redirects are not followed. `path` starts with `/`.
    Http { path: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Container {
    pub name: Name,
    /// Fully qualified: `docker.io/library/alpine:3.20`.
    pub image: String,
    /// Replaces the image's entrypoint and command; empty: the image's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// `KEY=VALUE` each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `None`: the image's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Without the `CAP_` prefix, upper case; `ALL` is possible.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_opt: Vec<SecurityOpt>,
    /// The root filesystem.
    pub read_only: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<TmpfsMount>,
    pub resource: Resource,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Request and limit; > 0.
    pub cpu: MilliCpu,
    /// Request and limit; > 0.
    pub memory: Bytes,
    /// The writable budget of root layer and `/tmp`; > 0.
    pub ephemeral_storage: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeMount {
    /// A declared volume.
    pub name: Name,
    /// Absolute, clean, and none of the places that are refused.
    pub mount_path: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TmpfsMount {
    pub mount_path: String,
    pub options: TmpfsOptions,
}

/// The mount options of a tmpfs, parsed. Serialized as the list that was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// As in the manifest, in its order; each one known.
    pub given: Vec<String>,
    /// The last `size=`; `None`: draws on the container's `/tmp` budget.
    pub size: Option<Bytes>,
}

impl Serialize for TmpfsOptions {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.given.serialize(serializer)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOpt {
    NoNewPrivileges(bool),
    Seccomp(Profile),
    Apparmor(Profile),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    RuntimeDefault,
    Unconfined,
    /// A name in the agent's own folder of profiles: never a path.
    Localhost(Name),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeSpec {
    /// `None`: what the agent advertises.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub unschedulable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExternalSpec {
    pub node_id: NodeId,
    /// The public name or address shown for the node.
    pub external: String,
}

impl Protocol {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Runtime {
    pub const ALL: [Self; 4] = [Self::Native, Self::Runc, Self::Crun, Self::Runsc];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Runsc => "runsc",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.cidr.address) {
            (None, _) => write!(f, "{}", self.cidr),
            (Some((port, protocol)), IpAddr::V4(_)) => write!(f, "{}:{port}/{protocol}", self.cidr),
            (Some((port, protocol)), IpAddr::V6(_)) => write!(f, "[{}]:{port}/{protocol}", self.cidr),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RuntimeDefault => f.write_str("runtime/default"),
            Self::Unconfined => f.write_str("unconfined"),
            Self::Localhost(name) => write!(f, "localhost/{name}"),
        }
    }
}

impl fmt::Display for SecurityOpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNewPrivileges(on) => write!(f, "no-new-privileges:{on}"),
            Self::Seccomp(profile) => write!(f, "seccomp={profile}"),
            Self::Apparmor(profile) => write!(f, "apparmor={profile}"),
        }
    }
}

macro_rules! serialize_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
serialize_as_text!(Cidr, EgressRule, SecurityOpt);

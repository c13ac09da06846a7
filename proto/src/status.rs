//! What became of a sandbox or node.

use crate::id::{Name, NodeId};
use crate::spec::{Protocol, Runtime};
use crate::units::{Bytes, MilliCpu, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// `Pending -> Scheduled -> Running -> Succeeded | Failed`, and `Deleting` from any of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Phase {
    #[default]
    Pending,
    Scheduled,
    Running,
    Succeeded,
    Failed,
    Deleting,
}

impl Phase {
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Scheduled,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Deleting,
    ];

    /// Its containers have ended and it waits for its deletion.
    #[must_use]
    pub fn has_ended(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Scheduled | Self::Running | Self::Deleting => false,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a sandbox failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Reason {
    ImagePullFailed,
    StartFailed,
    ProbeFailed,
    #[serde(rename = "OOMKilled")]
    OomKilled,
    ContainerExited,
    NodeLost,
    AgentError,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ImagePullFailed => "ImagePullFailed",
            Self::StartFailed => "StartFailed",
            Self::ProbeFailed => "ProbeFailed",
            Self::OomKilled => "OOMKilled",
            Self::ContainerExited => "ContainerExited",
            Self::NodeLost => "NodeLost",
            Self::AgentError => "AgentError",
        })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SandboxStatus {
    pub phase: Phase,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Why it waits or failed, for a person; empty: nothing to say.
    pub last_error: String,
    /// Where it is placed.
    pub node_name: Option<NodeId>,
    /// The sandbox's private address on its node.
    pub ip: Option<IpAddr>,
    pub assigned_ports: Vec<AssignedPort>,
    pub expire_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub containers: Vec<ContainerStatus>,
    /// Milliseconds per stage.
    pub timings: BTreeMap<String, u64>,
    pub conditions: Vec<Condition>,
    /// Where it was placed before, oldest first; at most [`EarlierPlacement::KEPT`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier_placements: Vec<EarlierPlacement>,
}

/// A placement that came to nothing: the node failed it, or was lost or drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EarlierPlacement {
    pub node_name: NodeId,
    pub ended_at: Timestamp,
    pub reason: Reason,
    /// For a person.
    pub message: String,
}

impl EarlierPlacement {
    /// A sandbox that outlives node after node must not grow without end; whoever looks into it asks about the last.
    pub const KEPT: usize = 8;
}

/// Something about a sandbox that holds or does not, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// [`Condition::SCHEDULED`], [`Condition::READY`], or one that a newer replica knows.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: bool,
    /// Why it does not hold, for a person; empty: nothing to say.
    pub message: String,
    pub changed_at: Timestamp,
}

impl Condition {
    /// It has a node.
    pub const SCHEDULED: &'static str = "Scheduled";
    /// Every container runs and the probe, if any, has passed.
    pub const READY: &'static str = "Ready";
}

impl SandboxStatus {
    /// Says whether a condition holds; `changed_at` stays where it did before.
    pub fn set_condition(&mut self, kind: &str, status: bool, message: &str, now: Timestamp) {
        let known = self
            .conditions
            .iter_mut()
            .find(|condition| condition.kind == kind);
        match known {
            Some(condition) => {
                if condition.status != status {
                    condition.changed_at = now;
                }
                condition.status = status;
                message.clone_into(&mut condition.message);
            }
            None => self.conditions.push(Condition {
                kind: kind.to_owned(),
                status,
                message: message.to_owned(),
                changed_at: now,
            }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AssignedPort {
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum ContainerState {
    #[default]
    Waiting,
    Running,
    Exited,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContainerStatus {
    pub name: Name,
    pub state: ContainerState,
    /// 128 + n where signal n ended it.
    pub exit_code: Option<i32>,
    pub oom_killed: bool,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// `sha256:...` of the manifest that was run; empty: not known yet.
    pub image_digest: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum NodeState {
    /// Has a manifest, but no agent was ever here.
    #[default]
    Unknown,
    Ready,
    /// Without heartbeats for `node_grace`: takes no new sandboxes.
    NotReady,
    /// Without heartbeats for `node_lease`: its sandboxes are given up.
    Lost,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an agent says of its node when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    pub ip: Option<IpAddr>,
    pub port: u16,
    pub capacity: Capacity,
    pub runtimes: Vec<RuntimeInfo>,
    pub default_runtime: Runtime,
    pub agent_version: String,
    pub boot_id: String,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup_mode: String,
    pub kernel: String,
    /// Whether sandboxes have user namespaces; `None`: its agent is too old to say.
    pub user_namespaces: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub cpu: MilliCpu,
    pub memory: Bytes,
    /// What sandboxes may take of it, 1..=100 per cent.
    pub max_alloc_percent: u8,
}

impl Capacity {
    /// What the scheduler may give away.
    #[must_use]
    pub fn allocatable(&self) -> (MilliCpu, Bytes) {
        let share = |n: u64| (u128::from(n) * u128::from(self.max_alloc_percent) / 100) as u64;
        (MilliCpu(share(self.cpu.0)), Bytes(share(self.memory.0)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeInfo {
    pub runtime: Runtime,
    pub version: String,
}

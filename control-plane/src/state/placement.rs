//! Whether a sandbox fits on a node. One set of rules, asked by the scheduler when it plans and again by `apply`
//! when the plan takes effect.

use super::HostPort;
use proto::id::{NodeId, Uid};
use proto::object::{Node, Sandbox};
use proto::spec::{Protocol, Runtime};
use proto::status::{AssignedPort, NodeState};
use proto::units::{Bytes, MIB, MilliCpu};
use std::fmt;
use std::ops::RangeInclusive;

/// Ports of a node that are given to sandboxes (contract, section 6).
pub const HOST_PORTS: RangeInclusive<u16> = 10_000..=32_767;

/// A sandbox on a node, with the ports by which it is reached there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub uid: Uid,
    pub node: NodeId,
    pub ports: Vec<AssignedPort>,
}

/// Why a node can't take a sandbox, for a person. In the order in which it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit<'a> {
    State(NodeState),
    Unschedulable,
    /// The first label that does not match.
    Selector {
        key: &'a str,
        value: &'a str,
    },
    Runtime(Runtime),
    Cpu {
        need: MilliCpu,
        free: MilliCpu,
    },
    Memory {
        need: Bytes,
        free: Bytes,
    },
    Ports(Protocol),
}

impl fmt::Display for Misfit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => write!(f, "{state}"),
            Self::Unschedulable => f.write_str("unschedulable"),
            Self::Selector { key, value } => write!(f, "selector {key}={value}"),
            Self::Runtime(runtime) => write!(f, "without runtime {runtime}"),
            Self::Cpu { need, free } => write!(f, "insufficient cpu (need {need}, free {free})"),
            // In whole MiB, rounded so that what is free always looks too little.
            Self::Memory { need, free } => write!(
                f,
                "insufficient memory (need {}Mi, free {}Mi)",
                need.0.div_ceil(MIB),
                free.0 / MIB
            ),
            Self::Ports(protocol) => write!(f, "no free {protocol} ports"),
        }
    }
}

/// The node of which it takes cpu, memory and ports; `None`: it has none, or has ended and was released there.
#[must_use]
pub fn taken_node(sandbox: &Sandbox) -> Option<&NodeId> {
    let node = sandbox.status.node_name.as_ref()?;
    sandbox.status.ended_at.is_none().then_some(node)
}

/// The host ports by which it is reached.
pub fn host_ports(sandbox: &Sandbox) -> impl Iterator<Item = HostPort> + Clone {
    let assigned = sandbox.status.assigned_ports.iter();
    assigned.map(|port| (port.protocol, port.host_port))
}

/// What does not change while sandboxes come and go: state, policy, labels, runtimes.
///
/// # Errors
/// The first reason against it.
pub fn suits<'a>(node: &Node, sandbox: &'a Sandbox) -> Result<(), Misfit<'a>> {
    if node.state != NodeState::Ready {
        return Err(Misfit::State(node.state));
    }
    if node.spec.unschedulable {
        return Err(Misfit::Unschedulable);
    }
    let differs = |(key, value): &(&String, &String)| node.effective_label(key) != Some(value.as_str());
    if let Some((key, value)) = sandbox.spec.node_selector.iter().find(differs) {
        return Err(Misfit::Selector { key, value });
    }
    if let Some(runtime) = sandbox.spec.runtime {
        let reported = node
            .report
            .as_ref()
            .map(|r| r.runtimes.as_slice())
            .unwrap_or_default();
        if !reported.iter().any(|info| info.runtime == runtime) {
            return Err(Misfit::Runtime(runtime));
        }
    }
    Ok(())
}

/// What a node has left: allocatable less what is used; nothing, of one that never registered.
#[must_use]
pub fn free(node: &Node, used_cpu: MilliCpu, used_memory: Bytes) -> (MilliCpu, Bytes) {
    let allocatable = node.report.as_ref().map(|report| report.capacity.allocatable());
    let (cpu, memory) = allocatable.unwrap_or_default();
    (cpu.saturating_sub(used_cpu), memory.saturating_sub(used_memory))
}

/// Whether what is free is enough.
///
/// # Errors
/// The first reason against it.
pub fn fits(need: proto::budget::Demand, (cpu, memory): (MilliCpu, Bytes)) -> Result<(), Misfit<'static>> {
    if need.cpu > cpu {
        return Err(Misfit::Cpu {
            need: need.cpu,
            free: cpu,
        });
    }
    if need.memory > memory {
        return Err(Misfit::Memory {
            need: need.memory,
            free: memory,
        });
    }
    Ok(())
}

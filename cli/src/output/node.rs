//! A node as a row.

use super::{or_dash, span};
use proto::document::NodeDocument;
use proto::units::{Bytes, MilliCpu, Timestamp};

pub(super) fn header(wide: bool) -> Vec<&'static str> {
    let mut header = vec!["ID", "STATE", "IP", "SANDBOXES", "CPU", "MEMORY", "AGE"];
    if wide {
        header.extend([
            "EXTERNAL",
            "HEARTBEAT",
            "RUNTIMES",
            "USERNS",
            "CGROUPS",
            "KERNEL",
            "VERSION",
            "LABELS",
        ]);
    }
    header.push("MESSAGE");
    header
}

pub(super) fn row(node: &NodeDocument, now: Timestamp, wide: bool) -> Vec<String> {
    let r = &node.resources;
    let state = match (node.drain_until, node.unschedulable) {
        (Some(_), _) => format!("{},Draining", node.state),
        (None, true) => format!("{},Unschedulable", node.state),
        (None, false) => node.state.to_string(),
    };
    let mut row = vec![
        node.id.clone(),
        state,
        node.ip.clone().unwrap_or("-".to_owned()),
        node.agent.sandboxes.to_string(),
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
        span(now.since(node.created_at)),
    ];
    if wide {
        row.extend([
            r.external.clone(),
            match node.last_heartbeat {
                Some(at) => format!("{} ago", span(now.since(at))),
                None => "-".to_owned(),
            },
            runtimes(node),
            user_namespaces(node).to_owned(),
            or_dash(&node.agent.cgroup_mode),
            or_dash(&node.agent.kernel),
            or_dash(&node.agent.version),
            super::labels(&node.metadata.labels),
        ]);
    }
    row.push(or_dash(&node.last_error));
    row
}

fn runtimes(node: &NodeDocument) -> String {
    let one = |r: &proto::status::RuntimeInfo| format!("{} {}", r.runtime, r.version);
    or_dash(&node.runtimes.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn user_namespaces(node: &NodeDocument) -> &'static str {
    match node.user_namespaces {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    }
}

/// Whole mebibytes, so that the two halves of a cell compare at a glance.
fn mebibytes(bytes: u64) -> Bytes {
    Bytes::mib(bytes / proto::units::MIB)
}

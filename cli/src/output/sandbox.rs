//! A sandbox as a row.

use super::{or_dash, span};
use proto::document::SandboxDocument;
use proto::status::{ContainerState, Phase};
use proto::units::Timestamp;

pub(super) fn header(wide: bool) -> Vec<&'static str> {
    let mut header = vec!["ID", "PHASE", "CONTAINERS", "NODE", "PORTS", "AGE"];
    if wide {
        header.extend(["IP", "EXTERNAL", "EXPIRES", "RUNTIME", "LABELS"]);
    }
    header.push("MESSAGE");
    header
}

pub(super) fn row(sandbox: &SandboxDocument, now: Timestamp, wide: bool) -> Vec<String> {
    let status = &sandbox.status.status;
    let mut row = vec![
        sandbox.id.clone(),
        status.phase.to_string(),
        containers(sandbox),
        status
            .node_name
            .as_ref()
            .map_or("-".to_owned(), ToString::to_string),
        ports(sandbox),
        span(now.since(sandbox.created_at)),
    ];
    if wide {
        row.extend([
            status.ip.map_or("-".to_owned(), |ip| ip.to_string()),
            sandbox.status.external.clone(),
            match status.expire_at {
                Some(at) => format!("in {}", span(at.since(now))),
                None => "never".to_owned(),
            },
            sandbox
                .spec
                .runtime
                .map_or("default", |runtime| runtime.as_str())
                .to_owned(),
            super::labels(&sandbox.metadata.labels),
        ]);
    }
    row.push(message(sandbox));
    row
}

/// How many containers run, of how many; after the end, their exit codes.
fn containers(sandbox: &SandboxDocument) -> String {
    let status = &sandbox.status.status;
    let total = sandbox.spec.containers.len();
    let counted = |state: ContainerState| status.containers.iter().filter(|c| c.state == state).count();
    match status.phase {
        Phase::Succeeded | Phase::Failed => {
            let codes: Vec<String> = status
                .containers
                .iter()
                .map(|c| c.exit_code.map_or("?".to_owned(), |code| code.to_string()))
                .collect();
            if codes.is_empty() {
                format!("0/{total}")
            } else {
                format!("exit {}", codes.join(","))
            }
        }
        Phase::Pending | Phase::Scheduled | Phase::Running | Phase::Deleting => {
            format!("{}/{total}", counted(ContainerState::Running))
        }
    }
}

/// `31042->80/tcp`
fn ports(sandbox: &SandboxDocument) -> String {
    let ports = &sandbox.status.status.assigned_ports;
    if ports.is_empty() {
        return "-".to_owned();
    }
    let shown: Vec<String> = ports
        .iter()
        .map(|p| format!("{}->{}/{}", p.host_port, p.container_port, p.protocol))
        .collect();
    shown.join(",")
}

fn message(sandbox: &SandboxDocument) -> String {
    let status = &sandbox.status.status;
    match status.reason {
        Some(reason) if status.last_error.is_empty() => reason.to_string(),
        Some(reason) => format!("{reason}: {}", status.last_error),
        None => or_dash(&status.last_error),
    }
}

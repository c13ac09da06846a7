//! A sandbox as row and document.

use super::{NO_EXTERNAL, or_dash, span};
use proto::convert::ConvertError;
use proto::object::Sandbox;
use proto::spec::{Labels, SandboxSpec};
use proto::status::{ContainerState, Phase, SandboxStatus};
use proto::units::Timestamp;
use proto::wire;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct SandboxView {
    id: String,
    metadata: Metadata,
    spec: SandboxSpec,
    status: StatusView,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Debug, Serialize)]
pub(super) struct Metadata {
    pub(super) labels: Labels,
}

#[derive(Debug, Serialize)]
struct StatusView {
    #[serde(flatten)]
    status: SandboxStatus,
    /// The public name of the node, `(none)` where there is none.
    external: String,
}

impl TryFrom<wire::Sandbox> for SandboxView {
    type Error = ConvertError;

    fn try_from(sandbox: wire::Sandbox) -> Result<Self, ConvertError> {
        let external = sandbox
            .status
            .as_ref()
            .map(|s| s.external.clone())
            .unwrap_or_default();
        let sandbox = Sandbox::try_from(sandbox)?;
        Ok(Self {
            id: sandbox.id.to_string(),
            metadata: Metadata {
                labels: sandbox.labels,
            },
            spec: sandbox.spec,
            status: StatusView {
                status: sandbox.status,
                external: if external.is_empty() {
                    NO_EXTERNAL.to_owned()
                } else {
                    external
                },
            },
            created_at: sandbox.created_at,
            updated_at: sandbox.updated_at,
        })
    }
}

pub(super) fn header(wide: bool) -> Vec<&'static str> {
    let mut header = vec!["ID", "PHASE", "CONTAINERS", "NODE", "PORTS", "AGE"];
    if wide {
        header.extend(["IP", "EXTERNAL", "EXPIRES", "RUNTIME", "LABELS"]);
    }
    header.push("MESSAGE");
    header
}

impl SandboxView {
    pub(super) fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let status = &self.status.status;
        let mut row = vec![
            self.id.clone(),
            status.phase.to_string(),
            self.containers(),
            status
                .node_name
                .as_ref()
                .map_or("-".to_owned(), ToString::to_string),
            self.ports(),
            span(now.since(self.created_at)),
        ];
        if wide {
            row.extend([
                status.ip.map_or("-".to_owned(), |ip| ip.to_string()),
                self.status.external.clone(),
                match status.expire_at {
                    Some(at) => format!("in {}", span(at.since(now))),
                    None => "never".to_owned(),
                },
                self.spec
                    .runtime
                    .map_or("default", |runtime| runtime.as_str())
                    .to_owned(),
                super::labels(&self.metadata.labels),
            ]);
        }
        row.push(self.message());
        row
    }

    /// How many containers run, of how many; after the end, their exit codes.
    fn containers(&self) -> String {
        let status = &self.status.status;
        let total = self.spec.containers.len();
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
    fn ports(&self) -> String {
        let ports = &self.status.status.assigned_ports;
        if ports.is_empty() {
            return "-".to_owned();
        }
        let shown: Vec<String> = ports
            .iter()
            .map(|p| format!("{}->{}/{}", p.host_port, p.container_port, p.protocol))
            .collect();
        shown.join(",")
    }

    fn message(&self) -> String {
        let status = &self.status.status;
        match status.reason {
            Some(reason) if status.last_error.is_empty() => reason.to_string(),
            Some(reason) => format!("{reason}: {}", status.last_error),
            None => or_dash(&status.last_error),
        }
    }
}

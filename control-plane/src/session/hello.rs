//! What an agent says first, and the check of all that agents say. Called by `stream`.

use super::SessionError;
use super::report;
use proto::convert::ConvertError;
use proto::id::NodeId;
use proto::manifest;
use proto::spec::Labels;
use proto::status::NodeReport;
use proto::wire::{self, agent_message};
use std::time::Duration;
use tokio::time::timeout;
use tonic::Streaming;

/// An agent sends its hello with the request; this leaves room for a slow network.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// What an agent says first, checked.
pub(super) struct Hello {
    pub(super) node: NodeId,
    pub(super) labels: Labels,
    pub(super) report: NodeReport,
    pub(super) inventory: Vec<wire::SandboxReport>,
}

/// Waits for the hello and checks it.
pub(super) async fn first(messages: &mut Streaming<wire::AgentMessage>) -> Result<Hello, SessionError> {
    let message = match timeout(HELLO_TIMEOUT, messages.message()).await {
        Ok(Ok(Some(message))) => message.message,
        Ok(Err(status)) => return Err(SessionError::Gone(status.message().to_owned())),
        Ok(Ok(None)) | Err(_) => None,
    };
    let Some(agent_message::Message::Hello(hello)) = message else {
        return Err(SessionError::NoHello);
    };
    let node = hello.node_id.parse().map_err(|source| ConvertError::Id {
        field: "node_id",
        value: hello.node_id.clone(),
        source,
    })?;
    for (key, value) in &hello.labels {
        manifest::check_label(key, value).map_err(|why| ConvertError::Malformed {
            field: "labels",
            value: format!("{key}={value}"),
            why,
        })?;
    }
    let report = hello.node.ok_or(ConvertError::Missing { field: "node" })?;
    Ok(Hello {
        inventory: checked(&node, hello.inventory),
        node,
        labels: hello.labels,
        report: report.try_into()?,
    })
}

/// The reports that are good; the others are told to the log.
pub(super) fn checked(node: &NodeId, reports: Vec<wire::SandboxReport>) -> Vec<wire::SandboxReport> {
    let good = reports.into_iter().filter_map(|reported| {
        let sandbox = reported.sandbox_id.clone();
        report::check(reported)
            .inspect_err(|error| tracing::warn!(%node, sandbox, %error, "report dropped"))
            .ok()
    });
    good.collect()
}

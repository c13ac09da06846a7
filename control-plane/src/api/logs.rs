//! Finds the agent that has a sandbox's lines, and asks it for them. On the leader alone: agents are there.

use super::{Api, Fault};
use crate::session::LogsRelay;
use proto::wire;

impl Api {
    /// Begins to read what containers have written.
    ///
    /// # Errors
    /// [`Fault::NotLeader`]; [`Fault::NotFound`], [`Fault::Invalid`] and [`Fault::NotPlaced`] where there is nothing
    /// to read; [`Fault::Logs`] where the agent can't be reached.
    pub async fn logs(&self, request: wire::LogsRequest) -> Result<LogsRelay, Fault> {
        let leadership = self.leadership();
        if !leadership.is_self {
            return Err(Fault::NotLeader(leadership.leader));
        }
        self.replica.linearize().await?;
        let id = request.sandbox_id.clone();
        let sandbox = {
            let state = self.replica.replicated().read();
            id.parse().ok().and_then(|id| state.sandbox(&id).cloned())
        };
        let Some(sandbox) = sandbox else {
            return Err(Fault::NotFound { kind: "sandbox", id });
        };
        let containers = &sandbox.spec.containers;
        if !request.container.is_empty() && !containers.iter().any(|c| c.name.as_str() == request.container) {
            let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
            return Err(Fault::Invalid(format!(
                "container: sandbox {id} has no `{}`; it has {}",
                request.container,
                names.join(", ")
            )));
        }
        let Some(node) = &sandbox.status.node_name else {
            return Err(Fault::NotPlaced(id));
        };
        self.sessions
            .logs(node, request)
            .await
            .map_err(|source| Fault::Logs { id, source })
    }
}

//! Finds the agent that has a sandbox, and asks it for the sandbox's lines or to let a user speak with it. On the leader
//! alone: agents are there.

use super::{Api, Fault};
use crate::access::{Caller, Hold, audit};
use crate::session::{Conversation, LogsRelay};
use futures::StreamExt;
use proto::id::NodeId;
use proto::object::Sandbox;
use proto::status::Phase;
use proto::wire::{self, relay_request::What};
use std::sync::Arc;
use tonic::Streaming;

/// Log lines on their way, for as long as their reader may have them.
pub struct Lines {
    id: String,
    hold: Hold,
    relay: LogsRelay,
}

impl Lines {
    /// The next lines; `None`: there are no more. Cancel safe.
    ///
    /// # Errors
    /// [`Fault::Relay`]; [`Fault::Denied`].
    pub async fn next(&mut self) -> Result<Option<wire::LogsChunk>, Fault> {
        let said = self.hold.during(self.relay.next()).await?;
        said.map_err(|source| Fault::Relay {
            what: "logs",
            id: self.id.clone(),
            source,
        })
    }
}

/// A user and something in his sandbox, for as long as he may speak with it.
pub struct Talk {
    what: &'static str,
    id: String,
    hold: Hold,
    conversation: Conversation,
}

impl Talk {
    /// What the sandbox says next; `None`: nothing more. Cancel safe.
    ///
    /// # Errors
    /// As of [`Lines::next`].
    pub async fn next(&mut self) -> Result<Option<wire::RelayOutput>, Fault> {
        let said = self.hold.during(self.conversation.next()).await?;
        said.map_err(|source| Fault::Relay {
            what: self.what,
            id: self.id.clone(),
            source,
        })
    }
}

impl Api {
    /// Begins to read what containers have written.
    ///
    /// # Errors
    /// [`Fault::NotLeader`]; [`Fault::NotFound`], [`Fault::Invalid`] and [`Fault::NotPlaced`] where there is nothing
    /// to read; [`Fault::Relay`] where the agent can't be reached.
    pub async fn logs(&self, caller: &Caller, request: wire::LogsRequest) -> Result<Lines, Fault> {
        let id = request.sandbox_id.clone();
        let hold = self.holds.of(caller);
        let (_, node) = self.placed(&id, &request.container).await?;
        match self.sessions.logs(&node, request).await {
            Ok(relay) => Ok(Lines { id, hold, relay }),
            Err(source) => Err(Fault::Relay {
                what: "logs",
                id,
                source,
            }),
        }
    }

    /// Lets a user speak with a sandbox that has not ended. `input` is what he says behind his request.
    ///
    /// # Errors
    /// As of [`Self::logs`], and [`Fault::IsOver`]; nothing was done then.
    pub async fn converse(
        &self,
        caller: &Caller,
        request: wire::RelayRequest,
        input: Streaming<wire::RelayInput>,
    ) -> Result<Talk, Fault> {
        let act = request.what.as_ref().map_or("converse", name);
        let what = format!("sandbox/{}", request.sandbox_id);
        let begun = self.begin(self.holds.of(caller), request, input).await;
        audit::note(caller, act, &what, &begun);
        begun
    }

    async fn begin(
        &self,
        hold: Hold,
        mut request: wire::RelayRequest,
        input: Streaming<wire::RelayInput>,
    ) -> Result<Talk, Fault> {
        let id = request.sandbox_id.clone();
        let (sandbox, node) = self.placed(&id, &request.container).await?;
        let what = match &request.what {
            Some(what) => name(what),
            None => {
                return Err(Fault::Invalid(
                    "what: nothing is asked for that is known here".to_owned(),
                ));
            }
        };
        if request.container.is_empty()
            && let Some(first) = sandbox.spec.containers.first()
        {
            first.name.as_str().clone_into(&mut request.container);
        }
        let phase = sandbox.status.phase;
        if phase.has_ended() || phase == Phase::Deleting {
            return Err(Fault::IsOver { id, phase });
        }
        // What he says is heard no more either, whether he listens or not.
        let over = hold.clone();
        let input = input.take_until(async move { over.over().await });
        match self.sessions.converse(&node, request, input).await {
            Ok(conversation) => Ok(Talk {
                what,
                id,
                hold,
                conversation,
            }),
            Err(source) => Err(Fault::Relay { what, id, source }),
        }
    }

    /// The sandbox, which has the container if one is named, and the node that it is on.
    async fn placed(&self, id: &str, container: &str) -> Result<(Arc<Sandbox>, NodeId), Fault> {
        let leadership = self.leadership();
        if !leadership.is_self {
            return Err(Fault::NotLeader(leadership.leader));
        }
        self.replica.linearize().await?;
        let sandbox = {
            let state = self.replica.replicated().read();
            id.parse().ok().and_then(|id| state.sandbox(&id).cloned())
        };
        let id = id.to_owned();
        let Some(sandbox) = sandbox else {
            return Err(Fault::NotFound { kind: "sandbox", id });
        };
        if !container.is_empty() {
            check_container(&sandbox, container)?;
        }
        match sandbox.status.node_name.clone() {
            Some(node) => Ok((sandbox, node)),
            None => Err(Fault::NotPlaced(id)),
        }
    }
}

fn check_container(sandbox: &Sandbox, name: &str) -> Result<(), Fault> {
    let names = || sandbox.spec.containers.iter().map(|c| c.name.as_str());
    if names().any(|known| known == name) {
        return Ok(());
    }
    Err(Fault::Invalid(format!(
        "container: sandbox {} has no `{name}`; it has {}",
        sandbox.id,
        names().collect::<Vec<_>>().join(", ")
    )))
}

/// As a user calls it.
fn name(what: &What) -> &'static str {
    match what {
        What::Exec(_) => "exec",
        What::Attach(_) => "attach",
        What::Copy(_) => "copy",
        What::Forward(_) => "port-forward",
    }
}

//! Pairs a waiting user with the stream that an agent opens for him: the leader asks the agent over its session, the
//! agent dials back naming the relay. Owns the pairs that wait; what flows afterwards belongs to the user's request.
//! Called by `api` for the user's side and by the agents' service for the other.

use super::{SessionError, Sessions};
use crate::access::Caller;
use proto::id::NodeId;
use proto::wire::{self, leader_message, open_relay, relay_up};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// An agent dials back within a round trip; this leaves room for a busy node.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Users that wait for an agent at one time; far above what people do, far below what hurts.
const MAX_WAITING: usize = 1_024;
/// Messages to an agent that wait for its connection: a slow one makes the user wait, not the memory grow.
const DOWN: usize = 1;

/// Why there is no relay, or why it has ended.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("the agent of node {0} is not connected at present")]
    Away(NodeId),
    #[error("the agent of node {0} did not answer within {AGENT_TIMEOUT:?}")]
    Silent(NodeId),
    #[error("{MAX_WAITING} requests wait for agents already")]
    TooMany,
    /// More is open there than it can serve.
    #[error("the agent of node {node} refuses: {why}")]
    Refused { node: NodeId, why: String },
    #[error("the agent of node {node}: {message}")]
    Agent { node: NodeId, message: String },
    #[error("the stream from the agent of node {node} broke: {message}")]
    Broken { node: NodeId, message: String },
    #[error("a relay begins with its id, one that was asked for and has not been given up")]
    Unknown,
    /// The user's fault.
    #[error("{0}")]
    Input(&'static str),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Those who wait, by relay id.
#[derive(Clone, Default)]
pub(super) struct Relays(Arc<Mutex<HashMap<String, Asked>>>);

/// A request to the agent of a node; no other may answer it.
struct Asked {
    node: NodeId,
    reply: oneshot::Sender<Reply>,
}

/// What comes of a request: both directions of an agent's stream, or why it opens none.
type Reply = Result<Pair, String>;

pub(super) type Down = mpsc::Sender<Result<wire::RelayDown, Status>>;

/// Both directions of an agent's stream. The agent sees the end of its stream when all of `down` is dropped.
struct Pair {
    up: Streaming<wire::RelayUp>,
    down: Down,
}

/// Forgets one who waits no more.
struct Waiting<'a> {
    relays: &'a Relays,
    id: String,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.relays.lock().remove(&self.id);
    }
}

/// A stream of an agent. Ends there when dropped.
pub(super) struct Relay {
    sessions: Sessions,
    node: NodeId,
    term: u64,
    pair: Pair,
}

impl Relay {
    /// What the agent says next; `None`: it has said everything. Cancel safe.
    ///
    /// # Errors
    /// [`RelayError`]: the agent's own word, its loss, or that this replica does not lead any more.
    pub(super) async fn next(&mut self) -> Result<Option<relay_up::Message>, RelayError> {
        let said = tokio::select! {
            said = self.pair.up.message() => said,
            lost = self.sessions.unseated(self.term) => return Err(lost.into()),
        };
        let node = || self.node.clone();
        match said {
            Ok(Some(wire::RelayUp {
                message: Some(relay_up::Message::Error(message)),
            })) => Err(RelayError::Agent {
                node: node(),
                message,
            }),
            // One that says nothing is of a newer version.
            Ok(Some(up)) => Ok(Some(
                up.message.unwrap_or(relay_up::Message::RelayId(String::new())),
            )),
            Ok(None) => Ok(None),
            Err(status) => Err(RelayError::Broken {
                node: node(),
                message: status.message().to_owned(),
            }),
        }
    }

    /// The way to the agent.
    pub(super) fn down(&self) -> &Down {
        &self.pair.down
    }
}

/// Log lines on their way from an agent. Ends at the agent when dropped.
pub struct LogsRelay(Relay);

impl LogsRelay {
    /// The next lines; `None`: there are no more. Cancel safe.
    ///
    /// # Errors
    /// [`RelayError`]: the agent's own word, its loss, or that this replica does not lead any more.
    pub async fn next(&mut self) -> Result<Option<wire::LogsChunk>, RelayError> {
        while let Some(said) = self.0.next().await? {
            match said {
                relay_up::Message::Logs(chunk) => return Ok(Some(chunk)),
                relay_up::Message::RelayId(_)
                | relay_up::Message::Error(_)
                | relay_up::Message::Output(_) => {}
            }
        }
        Ok(None)
    }
}

impl Relays {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`RelayError::TooMany`]
    fn wait(&self, id: &str, node: &NodeId) -> Result<(Waiting<'_>, oneshot::Receiver<Reply>), RelayError> {
        let (reply, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            return Err(RelayError::TooMany);
        }
        let node = node.clone();
        waiting.insert(id.to_owned(), Asked { node, reply });
        let id = id.to_owned();
        Ok((Waiting { relays: self, id }, receiver))
    }

    /// An agent will not open a relay. Nobody may wait for it any more.
    pub(super) fn refuse(&self, node: &NodeId, refused: wire::RelayRefused) {
        if let Some(asked) = self.take(&refused.relay_id, |asked| asked == node) {
            asked.reply.send(Err(refused.why)).ok();
        }
    }

    /// The request, if it is to a node that is the caller's; one to another stays.
    fn take(&self, id: &str, is_own: impl Fn(&NodeId) -> bool) -> Option<Asked> {
        let mut waiting = self.lock();
        if waiting.get(id).is_some_and(|asked| is_own(&asked.node)) {
            waiting.remove(id)
        } else {
            None
        }
    }
}

impl Sessions {
    /// Asks the agent of `node` for log lines.
    ///
    /// # Errors
    /// [`RelayError`]
    pub async fn logs(&self, node: &NodeId, request: wire::LogsRequest) -> Result<LogsRelay, RelayError> {
        self.ask(node, open_relay::What::Logs(request))
            .await
            .map(LogsRelay)
    }

    /// Asks the agent of `node` to open a stream.
    ///
    /// # Errors
    /// [`RelayError`]
    pub(super) async fn ask(&self, node: &NodeId, what: open_relay::What) -> Result<Relay, RelayError> {
        let term = self.leading()?.term;
        let entry = self
            .table
            .get(node)
            .ok_or_else(|| RelayError::Away(node.clone()))?;
        let relay_id = uuid::Uuid::new_v4().to_string();
        let (_waiting, reply) = self.relays.wait(&relay_id, node)?;
        let message = wire::LeaderMessage {
            message: Some(leader_message::Message::OpenRelay(wire::OpenRelay {
                relay_id,
                what: Some(what),
            })),
        };
        let away = || RelayError::Away(node.clone());
        let asked = async {
            entry.outbox().send(Ok(message)).await.map_err(|_| away())?;
            reply.await.map_err(|_| away())
        };
        let reply = tokio::select! {
            reply = timeout(AGENT_TIMEOUT, asked) => reply.map_err(|_| RelayError::Silent(node.clone()))??,
            () = entry.ended() => return Err(away()),
            lost = self.unseated(term) => return Err(lost.into()),
        };
        let pair = reply.map_err(|why| RelayError::Refused {
            node: node.clone(),
            why,
        })?;
        Ok(Relay {
            sessions: self.clone(),
            node: node.clone(),
            term,
            pair,
        })
    }

    /// The agent's side: hands its stream to the user who waits for it. What comes out stays open for as long as
    /// he listens.
    ///
    /// # Errors
    /// [`RelayError::Unknown`] where nobody waits for it (any more).
    pub async fn relay(
        &self,
        caller: &Caller,
        mut up: Streaming<wire::RelayUp>,
    ) -> Result<mpsc::Receiver<Result<wire::RelayDown, Status>>, RelayError> {
        let first = match timeout(AGENT_TIMEOUT, up.message()).await {
            Ok(Ok(Some(first))) => first.message,
            Ok(Ok(None) | Err(_)) | Err(_) => None,
        };
        let Some(relay_up::Message::RelayId(id)) = first else {
            return Err(RelayError::Unknown);
        };
        let asked = self.relays.take(&id, |node| caller.is_agent_of(node));
        let asked = asked.ok_or(RelayError::Unknown)?;
        let (down, told) = mpsc::channel(DOWN);
        asked
            .reply
            .send(Ok(Pair { up, down }))
            .map_err(|_| RelayError::Unknown)?;
        Ok(told)
    }
}

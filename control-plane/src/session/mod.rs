//! The agents' side of the leader: one stream per agent, desired states out, heartbeats and reports in, and the
//! relays on which users reach their sandboxes.
//!
//! | file | owns |
//! |---|---|
//! | `liveness` | when each agent was heard last |
//! | `table` | the open sessions, by node |
//! | `dispatch` | from changes of the state to the sessions that they concern |
//! | `stream` | one session, from its hello to its end |
//! | `crowd` | what keeps many sessions from crowding out everything else |
//! | `hello` | what an agent says first, checked |
//! | `desired` | what a sandbox is to a node (pure) |
//! | `report` | what agents say of sandboxes (pure) |
//! | `relay` | pairs a waiting user with the stream that an agent opens for him |
//! | `conversation` | such a stream in both directions: exec, attach, copy, port-forward |
//!
//! Only a leader has sessions; they all end when it ceases to be one. Called by `api`.

mod conversation;
mod crowd;
mod desired;
mod dispatch;
mod hello;
mod liveness;
mod relay;
mod report;
#[cfg(test)]
pub(crate) mod sample;
mod stream;
mod table;

pub use conversation::Conversation;
pub use liveness::Liveness;
pub use relay::{LogsRelay, RelayError};
pub use report::ReportError;

use crate::access::Caller;
use crate::config::Timings;
use crate::raft::{Leader, Leadership, ProposeError, Replica};
use proto::convert::ConvertError;
use proto::id::NodeId;
use proto::wire;
use spans::Exporter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// All that agents hang on at this replica. Cheap to clone: clones share.
#[derive(Clone)]
pub struct Sessions {
    replica: Replica,
    liveness: Liveness,
    timings: Timings,
    table: table::Table,
    relays: relay::Relays,
    reporting: crowd::Reporting,
    exporter: Exporter,
    stopping: CancellationToken,
}

/// What an agent is told over its session.
pub type LeaderMessages = mpsc::Receiver<Result<wire::LeaderMessage, SessionError>>;

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("this replica does not lead")]
    NotLeader { leader: Option<Leader> },
    #[error("this replica stops")]
    Stopping,
    #[error("a newer session of node {0} has begun, or the node was deleted")]
    Superseded(NodeId),
    #[error("a session begins with Hello")]
    NoHello,
    #[error("Hello: {0}")]
    Hello(#[from] ConvertError),
    /// Nobody speaks for another's node.
    #[error("{who} does not speak for node {node}")]
    Foreign { who: String, node: NodeId },
    #[error("register node {node}: {source}")]
    Register { node: NodeId, source: ProposeError },
    #[error("node {0} does not read what it is told")]
    Stalled(NodeId),
    /// The agent has ended the stream, or the connection broke.
    #[error("the agent has gone: {0}")]
    Gone(String),
}

impl Sessions {
    /// No session yet. They end when `stopping` is cancelled.
    #[must_use]
    pub fn new(
        replica: Replica,
        liveness: Liveness,
        timings: Timings,
        exporter: Exporter,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            replica,
            liveness,
            timings,
            table: table::Table::default(),
            relays: relay::Relays::default(),
            reporting: crowd::Reporting::default(),
            exporter,
            stopping,
        }
    }

    /// Begins a session on an agent's stream; what the agent is told comes out of the answer. During an election it
    /// waits for its outcome, in bounded time: who asks again and again would only keep it from ending.
    ///
    /// # Errors
    /// [`SessionError::NotLeader`] and [`SessionError::Stopping`]; all else is told on the stream, as its last item.
    pub async fn open(
        &self,
        caller: Caller,
        messages: Streaming<wire::AgentMessage>,
    ) -> Result<LeaderMessages, SessionError> {
        if self.stopping.is_cancelled() {
            return Err(SessionError::Stopping);
        }
        crowd::until_somebody_leads(self.replica.id(), self.replica.leadership()).await;
        let leadership = self.leading()?;
        let (outbox, told) = mpsc::channel(table::OUTBOX);
        tokio::spawn(stream::run(
            self.clone(),
            leadership.term,
            caller,
            messages,
            outbox,
        ));
        Ok(told)
    }

    /// Agents that have one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// How often an agent says that it lives.
    #[must_use]
    pub fn heartbeat(&self) -> std::time::Duration {
        self.timings.heartbeat
    }

    /// Whether the agent of `node` has one.
    #[must_use]
    pub fn has(&self, node: &NodeId) -> bool {
        self.table.get(node).is_some()
    }

    /// Lets the agent of `node` compare all that is there with all that shall be; `false`: it has no session.
    #[must_use]
    pub fn tell_all(&self, node: &NodeId) -> bool {
        self.table.touch_whole(node)
    }

    /// Asks the agent of `node` for a heartbeat, which [`Liveness::heard_after`] awaits; `false`: it has no session.
    #[must_use]
    pub fn ask_for_heartbeat(&self, node: &NodeId) -> bool {
        self.table.ask(node)
    }

    /// Carries changes of the state to the sessions; without end.
    pub async fn dispatch(self) {
        dispatch::run(self.replica.replicated(), &self.table).await;
    }

    /// The present leadership where it is this replica's.
    fn leading(&self) -> Result<Leadership, SessionError> {
        let leadership = self.replica.leadership().borrow().clone();
        if leadership.is_self {
            Ok(leadership)
        } else {
            Err(SessionError::NotLeader {
                leader: leadership.leader,
            })
        }
    }

    /// Returns once this replica does not lead in `term` any more, with who does, or stops.
    async fn unseated(&self, term: u64) -> SessionError {
        let mut leadership = self.replica.leadership();
        let lost = leadership.wait_for(|now| !now.is_self || now.term != term);
        tokio::select! {
            now = lost => match now {
                Ok(now) => SessionError::NotLeader { leader: now.leader.clone().filter(|_| !now.is_self) },
                Err(_) => SessionError::Stopping,
            },
            () = self.stopping.cancelled() => SessionError::Stopping,
        }
    }
}

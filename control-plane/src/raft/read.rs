//! Linearizable reads: how far this replica must have applied the log to show all that was acknowledged.
//!
//! The leader confirms with a quorum that it leads still, and says how far the log was committed then (the read
//! index of Raft's dissertation, 6.4; no clock is trusted). A follower asks the leader. Who asks while a round
//! is under way shares the next one. Never reads the state itself; called by [`super::replica`].

use super::leadership::Leadership;
use super::link::{Lane, Links};
use super::replica::Raft;
use super::replicated::Replicated;
use super::types::Member;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ForwardToLeader, LinearizableReadError, RaftError};
use proto::wire;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// From the call to its answer. An election and its first commit fit in; a user's own patience is longer.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// For one round: a leader that cannot reach a quorum says so itself before this.
const ROUND_TIMEOUT: Duration = Duration::from_millis(500);
/// Between rounds that failed, while another leader may be elected.
const PAUSE: Duration = Duration::from_millis(20);
/// Calls that wait for a round, each of a few bytes.
const MAX_WAITING: usize = 16_384;

/// Why a replica cannot say that its state is up to date. A stale read is still possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no leader is known at present, so this replica cannot tell whether its state is up to date")]
    NoLeader,
    /// The leader was asked and did not confirm that it leads.
    #[error("leader {leader} did not confirm that it leads: {why}")]
    Unconfirmed { leader: u64, why: String },
    #[error("this replica has applied the log up to {applied} and not up to {wanted} within {after:?}")]
    Behind {
        applied: u64,
        wanted: u64,
        after: Duration,
    },
    #[error("{waiting} reads wait already; try again in a moment")]
    Overloaded { waiting: usize },
    #[error("this replica has stopped")]
    Stopped,
}

type Waiting = oneshot::Sender<Result<u64, ReadError>>;

/// Asks for read indexes on behalf of all readers of this replica.
#[derive(Debug, Clone)]
pub(super) struct Reads {
    waiting: mpsc::Sender<Waiting>,
    replicated: Arc<Replicated>,
}

impl Reads {
    /// Starts the task that runs the rounds; it ends with the last clone.
    pub(super) fn start(
        id: u64,
        raft: Raft,
        links: Links,
        replicated: Arc<Replicated>,
        leadership: watch::Receiver<Leadership>,
    ) -> Self {
        let (waiting, queue) = mpsc::channel(MAX_WAITING);
        let rounds = Rounds {
            id,
            raft,
            links,
            leadership,
        };
        tokio::spawn(rounds.run(queue));
        Self { waiting, replicated }
    }

    /// Returns once this replica has applied all that was acknowledged before the call; the index of the last
    /// entry that it must show.
    pub(super) async fn linearize(&self) -> Result<u64, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.waiting.try_send(answer).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded { waiting: MAX_WAITING },
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
        })?;
        let wanted = answered.await.map_err(|_| ReadError::Stopped)??;
        let mut applied = self.replicated.applied();
        let caught_up = applied.wait_for(|&applied| applied >= wanted);
        match tokio::time::timeout(READ_TIMEOUT, caught_up).await {
            Ok(Ok(_)) => Ok(wanted),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Behind {
                applied: *self.replicated.applied().borrow(),
                wanted,
                after: READ_TIMEOUT,
            }),
        }
    }
}

struct Rounds {
    id: u64,
    raft: Raft,
    links: Links,
    leadership: watch::Receiver<Leadership>,
}

impl Rounds {
    async fn run(self, mut queue: mpsc::Receiver<Waiting>) {
        let mut waiting = Vec::new();
        // Whoever is in the queue when a round begins has called before it: one round answers them all.
        while queue.recv_many(&mut waiting, MAX_WAITING).await > 0 {
            let index = self.until_confirmed().await;
            for answer in waiting.drain(..) {
                // The caller may have gone.
                let _ = answer.send(index.clone());
            }
        }
    }

    /// Rounds until one succeeds, for as long as a reader waits.
    async fn until_confirmed(&self) -> Result<u64, ReadError> {
        let mut last = ReadError::NoLeader;
        let rounds = async {
            loop {
                match self.round().await {
                    Ok(index) => return Ok(index),
                    Err(ReadError::Stopped) => return Err(ReadError::Stopped),
                    Err(e) => last = e,
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        match tokio::time::timeout(READ_TIMEOUT, rounds).await {
            Ok(result) => result,
            Err(_) => Err(last),
        }
    }

    async fn round(&self) -> Result<u64, ReadError> {
        let leader = self.leader()?;
        match leader {
            None => Err(ReadError::NoLeader),
            Some((leader, _)) if leader == self.id => confirm_own(&self.raft).await,
            Some((leader, member)) => self.ask(leader, &member).await,
        }
    }

    fn leader(&self) -> Result<Option<(u64, Member)>, ReadError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.running_state.is_err() {
            return Err(ReadError::Stopped);
        }
        let membership = metrics.membership_config.membership();
        Ok(metrics
            .current_leader
            .and_then(|id| Some((id, membership.get_node(&id)?.clone()))))
    }

    async fn ask(&self, leader: u64, member: &Member) -> Result<u64, ReadError> {
        let unconfirmed = |why: String| ReadError::Unconfirmed { leader, why };
        let mut peer = self
            .links
            .peer(leader, member, Lane::Pulse)
            .map_err(|e| unconfirmed(e.to_string()))?;
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        let asking = tokio::time::timeout(ROUND_TIMEOUT, peer.read_index(wire::ReadIndexRequest {}));
        tokio::select! {
            biased;
            answered = asking => match answered {
                Ok(Ok(response)) => Ok(response.into_inner().index),
                Ok(Err(status)) => Err(unconfirmed(status.message().to_owned())),
                Err(_) => Err(unconfirmed(format!("no answer within {ROUND_TIMEOUT:?}"))),
            },
            // One that is frozen or cut off was replaced: it need not be waited for.
            Ok(()) = leadership.changed() => Err(unconfirmed("it is heard no more, or another one leads".to_owned())),
        }
    }
}

/// One round where this replica leads; [`ReadError::Unconfirmed`] where it does not.
pub(super) async fn confirm_own(raft: &Raft) -> Result<u64, ReadError> {
    let leader = *raft.node_id();
    let unconfirmed = |why: String| ReadError::Unconfirmed { leader, why };
    let confirming = raft.get_read_linearizer(ReadPolicy::ReadIndex);
    match tokio::time::timeout(ROUND_TIMEOUT, confirming).await {
        Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
            Err(unconfirmed(not_leading(&to)))
        }
        Ok(Err(RaftError::APIError(e @ LinearizableReadError::QuorumNotEnough(_)))) => {
            Err(unconfirmed(e.to_string()))
        }
        Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
        Err(_) => Err(unconfirmed(format!(
            "no quorum answered within {ROUND_TIMEOUT:?}"
        ))),
    }
}

fn not_leading<C: openraft::RaftTypeConfig<NodeId = u64>>(to: &ForwardToLeader<C>) -> String {
    match to.leader_id {
        Some(other) => format!("replica {other} leads now"),
        None => "it cannot reach a quorum".to_owned(),
    }
}

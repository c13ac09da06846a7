//! Commands into the log, and their answers out of it.
//!
//! Proposals that arrive while earlier ones are being written ride in one entry: the cost of a write under load
//! is a fraction of an fsync. One that arrives alone is sent at once; no timer waits for company. Owns the queue,
//! its bounds, and what a caller is told; what a command does is [`crate::state`]'s. Called by
//! [`super::replica`].

use super::instruments::Instruments;
use super::leadership::{Leader, Leadership};
use super::levels::{Behind, Levels};
use super::replica::Raft;
use super::replicated::Replicated;
use super::space::{NearlyFull, Space};
use super::types::{Answers, Proposal, TypeConfig};
use crate::clock;
use crate::state::{Level, level};
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use prometheus_client::metrics::histogram::Histogram;
use prost::Message;
use proto::wire;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// From the call to its answer. Far above a commit on a loaded disk, and not much above the patience of a client
/// that will ask another replica with the same request id.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Commands that wait for their turn; more than all clients of a cluster at its create rate send in a second.
const MAX_WAITING: usize = 16_384;
/// Bytes of all commands not answered yet. Bounds the memory that a leader without a quorum may fill.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Commands of one entry. Beyond some hundreds a batch gains nothing and its answers come late.
const MAX_BATCH: usize = 512;
/// Bytes of one entry, but for a single larger command.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// One command. With room to spare for a placement of thousands of sandboxes or a node's full report.
pub(super) const MAX_COMMAND_BYTES: usize = 4 << 20;
/// Entries written and not answered yet. While they are under way the next batch gathers; enough to keep disk and
/// network busy at once, few enough that batches grow under load.
const MAX_UNDER_WAY: usize = 4;

/// Why a command has no accepted answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// It was not taken and has no effect: ask the leader.
    #[error("{}", not_leader(.leader.as_ref()))]
    NotLeader { leader: Option<Leader> },
    /// It took its place in the log and was refused there.
    #[error("{}", .0.message)]
    Rejected(wire::Rejected),
    /// It may take effect yet, or have done so: ask again with the same request id.
    #[error("{why}; the write may still take effect, ask again with the same request id")]
    Unknown { why: &'static str },
    /// It was not taken and has no effect.
    #[error("{waiting} writes wait already; try again in a moment")]
    Overloaded { waiting: usize },
    /// It was not taken and has no effect.
    #[error("the request takes {bytes} bytes, {limit} are allowed")]
    TooLarge { bytes: usize, limit: usize },
    /// It was not taken and has no effect.
    #[error(transparent)]
    NearlyFull(#[from] NearlyFull),
    /// It was not taken and has no effect: not all members could apply it.
    #[error("{}", not_yet(*.needed, .behind))]
    Level { needed: Level, behind: Vec<Behind> },
    /// The replica shuts down or cannot go on. The command may have taken effect or not.
    #[error("this replica has stopped")]
    Stopped,
}

fn not_leader(leader: Option<&Leader>) -> String {
    match leader {
        Some(leader) => format!("replica {} at {} leads", leader.id, leader.endpoint),
        None => "no leader is known at present".to_owned(),
    }
}

fn not_yet(needed: Level, behind: &[Behind]) -> String {
    if behind.is_empty() {
        return format!(
            "this needs the cluster to be at {needed}, which it is raised to now: try again in a moment"
        );
    }
    let behind: Vec<String> = behind.iter().map(ToString::to_string).collect();
    format!(
        "this needs all replicas to be at {needed} or later: {}",
        behind.join("; ")
    )
}

type Answered = Result<wire::Answer, ProposeError>;

/// One command, its caller, and its share of the bytes.
#[derive(Debug)]
struct Waiting {
    command: wire::Command,
    bytes: usize,
    caller: oneshot::Sender<Answered>,
    share: OwnedSemaphorePermit,
}

/// What must hold before a command is taken.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) raft: Raft,
    pub(super) replicated: Arc<Replicated>,
    pub(super) levels: Levels,
    pub(super) space: Space,
}

impl Gate {
    fn admit(&self, command: &wire::Command) -> Result<(), ProposeError> {
        self.space.admit(command)?;
        let cluster = self.replicated.read().level();
        let Err(needed) = level::admit(cluster, command) else {
            return Ok(());
        };
        // Only a leader that has applied all from before its term knows how far the cluster is.
        let leadership = Leadership::of(&self.raft.metrics().borrow_watched());
        if !leadership.is_self {
            return Err(ProposeError::NotLeader {
                leader: leadership.leader,
            });
        }
        let behind = self.levels.behind(&self.raft, needed);
        Err(ProposeError::Level { needed, behind })
    }
}

/// The way into the log. Clones share the queue.
#[derive(Debug, Clone)]
pub(super) struct Proposals {
    queue: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
    instruments: Instruments,
    gate: Gate,
}

impl Proposals {
    /// Starts the task that batches; it ends with the last clone, or with consensus.
    pub(super) fn start(gate: Gate, instruments: Instruments) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        tokio::spawn(run(gate.raft.clone(), waiting, instruments.batch.clone()));
        Self {
            queue,
            bytes: Arc::new(Semaphore::new(MAX_WAITING_BYTES)),
            instruments,
            gate,
        }
    }

    pub(super) fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// Commands that wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        MAX_WAITING - self.queue.capacity()
    }

    /// Proposes one command and waits for its answer, in bounded time.
    pub(super) async fn propose(&self, command: wire::Command) -> Result<wire::Accepted, ProposeError> {
        let begun = clock::instant();
        let answer = self.answer(command).await;
        let outcome = match &answer {
            Ok(_) => "accepted",
            Err(ProposeError::Rejected(_)) => "rejected",
            Err(
                ProposeError::NotLeader { .. }
                | ProposeError::Unknown { .. }
                | ProposeError::Overloaded { .. }
                | ProposeError::TooLarge { .. }
                | ProposeError::NearlyFull(_)
                | ProposeError::Level { .. }
                | ProposeError::Stopped,
            ) => "failed",
        };
        self.instruments.count(outcome);
        if outcome != "failed" {
            self.instruments.commit.observe(begun.elapsed().as_secs_f64());
        }
        answer
    }

    async fn answer(&self, command: wire::Command) -> Result<wire::Accepted, ProposeError> {
        let bytes = command.encoded_len();
        if bytes > MAX_COMMAND_BYTES {
            let limit = MAX_COMMAND_BYTES;
            return Err(ProposeError::TooLarge { bytes, limit });
        }
        self.gate.admit(&command)?;
        let share = u32::try_from(bytes).unwrap_or(u32::MAX);
        let share = self.bytes.clone().try_acquire_many_owned(share);
        let share = share.map_err(|_| self.overloaded())?;
        let (caller, answered) = oneshot::channel();
        let waiting = Waiting {
            command,
            bytes,
            caller,
            share,
        };
        self.queue.try_send(waiting).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => self.overloaded(),
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        match tokio::time::timeout(PROPOSE_TIMEOUT, answered).await {
            Ok(Ok(answer)) => accepted(answer?),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(NO_QUORUM),
        }
    }

    fn overloaded(&self) -> ProposeError {
        ProposeError::Overloaded {
            waiting: self.waiting(),
        }
    }
}

const NO_QUORUM: ProposeError = ProposeError::Unknown {
    why: "no quorum of replicas has confirmed the write in time",
};
const LEADER_CHANGED: ProposeError = ProposeError::Unknown {
    why: "the leader has changed while the write was on its way",
};
const NOT_UNDERSTOOD: ProposeError = ProposeError::Unknown {
    why: "the answer to the write is not understood by this version",
};

fn accepted(answer: wire::Answer) -> Result<wire::Accepted, ProposeError> {
    use wire::answer::Answer;
    match answer.answer {
        Some(Answer::Accepted(accepted)) => Ok(accepted),
        Some(Answer::Rejected(rejected)) => Err(ProposeError::Rejected(rejected)),
        None => Err(NOT_UNDERSTOOD),
    }
}

/// Gathers what waits into batches and answers what was written, until nobody can propose any more.
async fn run(raft: Raft, mut queue: mpsc::Receiver<Waiting>, batches: Histogram) {
    let mut under_way = FuturesUnordered::new();
    let mut carried = None;
    loop {
        let first = tokio::select! {
            biased;
            Some(()) = under_way.next() => continue,
            first = next(&mut carried, &mut queue), if under_way.len() < MAX_UNDER_WAY => first,
        };
        let Some(first) = first else { break };
        let batch = gather(first, &mut carried, &mut queue);
        let Some((proposal, callers)) = batch.stamped() else {
            continue;
        };
        batches.observe(callers.len() as f64);
        let (responder, written) = ProgressResponder::complete_only();
        // Entries take their places in the log in the order of these calls.
        if raft.client_write_ff(proposal, Some(responder)).await.is_err() {
            break;
        }
        under_way.push(settle(written, callers));
    }
    while under_way.next().await.is_some() {}
}

/// A command that did not fit into the last batch comes first.
async fn next(carried: &mut Option<Waiting>, queue: &mut mpsc::Receiver<Waiting>) -> Option<Waiting> {
    match carried.take() {
        Some(waiting) => Some(waiting),
        None => queue.recv().await,
    }
}

/// Commands that become one entry.
#[derive(Debug, Default)]
struct Batch {
    commands: Vec<wire::Command>,
    callers: Vec<Caller>,
    bytes: usize,
}

/// Who waits for one command's answer; gives its share of the bytes back when dropped.
#[derive(Debug)]
struct Caller {
    answer: oneshot::Sender<Answered>,
    _share: OwnedSemaphorePermit,
}

impl Batch {
    fn has_room_for(&self, waiting: &Waiting) -> bool {
        self.commands.is_empty()
            || (self.commands.len() < MAX_BATCH && self.bytes + waiting.bytes <= MAX_BATCH_BYTES)
    }

    /// Leaves out a command whose caller has given up: it was told that the outcome is unknown, and "never" is
    /// the outcome that costs least.
    fn add(&mut self, waiting: Waiting) {
        if waiting.caller.is_closed() {
            return;
        }
        self.bytes += waiting.bytes;
        self.commands.push(waiting.command);
        self.callers.push(Caller {
            answer: waiting.caller,
            _share: waiting.share,
        });
    }

    /// The entry, as of now, and who waits for it; `None` where nobody does.
    fn stamped(self) -> Option<(Proposal, Vec<Caller>)> {
        if self.commands.is_empty() {
            return None;
        }
        let batch = wire::Batch {
            now_ms: clock::now().0,
            commands: self.commands,
        };
        Some((Proposal(batch), self.callers))
    }
}

/// Takes what waits already, and no more than one entry holds.
fn gather(first: Waiting, carried: &mut Option<Waiting>, queue: &mut mpsc::Receiver<Waiting>) -> Batch {
    let mut batch = Batch::default();
    batch.add(first);
    while let Ok(waiting) = queue.try_recv() {
        if !batch.has_room_for(&waiting) {
            *carried = Some(waiting);
            break;
        }
        batch.add(waiting);
    }
    batch
}

/// Gives each caller its answer. Ends when none can wait any longer: a leader cut off from its quorum keeps what it
/// has taken, but refuses what comes, and says so to whom it gets to.
async fn settle(written: oneshot::Receiver<ClientWriteResult<TypeConfig>>, callers: Vec<Caller>) {
    let failure = match tokio::time::timeout(PROPOSE_TIMEOUT, written).await {
        Ok(Ok(Ok(response))) => {
            let Answers(answers) = response.data;
            debug_assert_eq!(answers.len(), callers.len(), "one answer per command");
            for (caller, answer) in callers.into_iter().zip(answers) {
                // The caller may have given up.
                let _ = caller.answer.send(Ok(answer));
            }
            return;
        }
        Ok(Ok(Err(ClientWriteError::ForwardToLeader(to)))) => ProposeError::NotLeader { leader: leader(to) },
        // Another leader's log has taken its place here; elsewhere it may have been committed.
        Ok(Ok(Err(ClientWriteError::LogEntryDiscarded(_)))) => LEADER_CHANGED,
        // Neither is asked for here.
        Ok(Ok(Err(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)))) => {
            NOT_UNDERSTOOD
        }
        Ok(Err(_)) => ProposeError::Stopped,
        Err(_) => NO_QUORUM,
    };
    for caller in callers {
        let _ = caller.answer.send(Err(failure.clone()));
    }
}

/// The leader that openraft names in a refusal.
pub(super) fn leader(to: ForwardToLeader<TypeConfig>) -> Option<Leader> {
    Some(Leader {
        id: to.leader_id?,
        endpoint: to.leader_node?.endpoint,
    })
}

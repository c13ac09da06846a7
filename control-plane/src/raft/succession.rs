//! What follows when the leader's connection breaks off: a dead process's kernel says so at once, long before its
//! silence would count.
//!
//! A follower then stands for election as soon as the leader's lease allows it, instead of waiting for a random
//! timeout beyond it. Only ever asks for a pre-vote, which changes nothing while a leader lives; followers take
//! turns, so that their votes don't split. Told by [`super::peer`].

use super::replica::Raft;
use super::tuning::ELECTION_TIMEOUT_MAX;
use openraft::async_runtime::WatchReceiver;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between the turns of two followers: the pre-vote and the vote of the first, with its sync of the disk.
const TURN: Duration = Duration::from_millis(50);
/// Broken connections not looked at yet; one is enough.
const MAX_WAITING: usize = 4;

/// Where broken connections of leaders are told. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Succession(mpsc::Sender<u64>);

impl Succession {
    /// Starts the task that heeds them; it ends with the last clone.
    pub(super) fn start(id: u64, raft: Raft) -> Self {
        let (told, broken) = mpsc::channel(MAX_WAITING);
        tokio::spawn(run(id, raft, broken));
        Self(told)
    }

    /// A stream on which `leader` replicated has broken off.
    pub(super) fn broken(&self, leader: u64) {
        // Full: another one is being looked at.
        let _ = self.0.try_send(leader);
    }
}

async fn run(id: u64, raft: Raft, mut broken: mpsc::Receiver<u64>) {
    while let Some(leader) = broken.recv().await {
        let Some(turn) = turn(id, &raft, leader) else {
            continue;
        };
        // The last heartbeat came before the break: the lease is over then, here and at the others.
        tokio::time::sleep(ELECTION_TIMEOUT_MAX + TURN * turn).await;
        if self::turn(id, &raft, leader).is_some() && raft.trigger().elect(true).await.is_err() {
            return;
        }
    }
}

/// How many followers go before this one; `None` where it does not follow `leader`, or has no vote.
fn turn(id: u64, raft: &Raft, leader: u64) -> Option<u32> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let voters = metrics.membership_config.membership().voter_ids();
    let followers: Vec<u64> = voters.filter(|&voter| voter != leader).collect();
    let place = followers.iter().position(|&follower| follower == id)?;
    let follows = metrics.current_leader == Some(leader);
    follows.then(|| u32::try_from(place).unwrap_or(u32::MAX))
}

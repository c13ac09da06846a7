//! The leader's loop: a change or a timer, then a plan, then a proposal. Owns what only the leader does of its own
//! accord, for as long as it leads:
//!
//! | file | owns |
//! |---|---|
//! | `placing` | gives pending sandboxes their nodes, or the reason why not |
//! | `expiry` | deletes what has outlived its TTL or its retention |
//! | `draining` | gives up what is left on a node when the time of its drain is over |
//! | `replacing` | takes a dead replica out once another has come in its place (pure rule) |
//! | `nodes` | declares nodes NotReady, Lost and Ready again |
//! | `instruments` | how long placing takes, for Prometheus |
//! | `attention` | for how long a node was silent while this process was able to hear it (pure) |
//!
//! Decides by proposals alone: what a deposed leader still proposes is refused. Called by `serve`.

mod attention;
mod draining;
mod expiry;
mod instruments;
mod nodes;
mod placing;
mod replacing;

pub use instruments::Instruments;

use crate::clock;
use crate::config::Timings;
use crate::raft::{ChangeSet, ProposeError, Replica, Subscription, TooOld};
use crate::schedule::Policy;
use crate::session::Liveness;
use attention::Attention;
use proto::wire::{self, command::Op};
use spans::Exporter;
use std::sync::Arc;
use std::time::Duration;

/// After a proposal that had no effect: about an election.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// One replica's part in leading. Idle on all but one of them.
pub struct Controller {
    replica: Replica,
    liveness: Liveness,
    timings: Timings,
    scheduling: Policy,
    instruments: Instruments,
    exporter: Exporter,
}

impl Controller {
    #[must_use]
    pub fn new(
        replica: Replica,
        liveness: Liveness,
        timings: Timings,
        scheduling: Policy,
        exporter: Exporter,
    ) -> Self {
        Self {
            replica,
            liveness,
            timings,
            scheduling,
            instruments: Instruments::default(),
            exporter,
        }
    }

    /// What is measured here.
    #[must_use]
    pub fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// Leads whenever this replica is the leader; until the replica stops.
    pub async fn run(self) {
        let mut leadership = self.replica.leadership();
        loop {
            let Ok(begun) = leadership.wait_for(|now| now.is_self).await.map(|now| now.term) else {
                return;
            };
            tracing::info!(term = begun, "leading");
            tokio::select! {
                () = self.lead() => {}
                over = leadership.wait_for(|now| !now.is_self || now.term != begun) => {
                    if over.is_err() {
                        return;
                    }
                }
            }
            // The next leader hears the agents; what this one knows of them would be old when it leads again.
            self.liveness.clear();
            tracing::info!(term = begun, "not leading any more");
        }
    }

    /// Everything that a leader does; returns when the replica stops.
    async fn lead(&self) {
        let attention = Arc::new(Attention::new(clock::instant()));
        tokio::join!(
            placing::run(&self.replica, self.scheduling, &self.instruments, &self.exporter),
            draining::run(&self.replica),
            expiry::run(&self.replica, self.timings.ended_retention),
            nodes::run(&self.replica, &self.liveness, &attention, &self.timings),
            replacing::run(&self.replica, self.timings.remove_dead_after),
            attention::beat(&attention),
        );
    }
}

/// Takes in all changes that are there already; `false`: everything must be read anew.
fn catch_up(changes: &mut Subscription, mut take: impl FnMut(&ChangeSet)) -> bool {
    loop {
        match changes.try_recv() {
            Ok(Some(set)) => take(&set),
            Ok(None) => return true,
            Err(TooOld { .. }) => return false,
        }
    }
}

/// What became of a proposal of the leader's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proposed {
    /// It took effect.
    Done,
    /// The world had moved on: the state shows what is left to do.
    Refused,
    /// To be made again.
    Undecided,
}

/// Proposes; returns after a pause where that had no effect, so that nobody tries in a tight loop.
async fn propose(replica: &Replica, op: Op) -> Proposed {
    let command = wire::Command {
        request_id: String::new(),
        op: Some(op),
    };
    let proposed = match replica.propose(command).await {
        Ok(_) => return Proposed::Done,
        Err(ProposeError::Rejected(rejected)) => {
            tracing::debug!(why = rejected.message, "proposal refused");
            Proposed::Refused
        }
        Err(error) => {
            tracing::debug!(%error, "proposal undecided");
            Proposed::Undecided
        }
    };
    tokio::time::sleep(RETRY_PAUSE).await;
    proposed
}

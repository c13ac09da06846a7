//! Linearizable reads: how far this replica must have applied the log to show all that was acknowledged.

use std::time::Duration;

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
    #[error("this replica has stopped")]
    Stopped,
}

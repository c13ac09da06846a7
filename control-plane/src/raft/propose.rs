//! Commands into the log, and their answers out of it.

use super::leadership::Leader;
use proto::wire;
use std::time::Duration;

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
    #[error(
        "no quorum of replicas confirmed the write within {after:?}; it may still take effect, ask again with \
         the same request id"
    )]
    Unknown { after: Duration },
    /// It was not taken and has no effect.
    #[error("{waiting} writes wait already; try again in a moment")]
    Overloaded { waiting: usize },
    /// It was not taken and has no effect.
    #[error("the request takes {bytes} bytes, {limit} are allowed")]
    TooLarge { bytes: usize, limit: usize },
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

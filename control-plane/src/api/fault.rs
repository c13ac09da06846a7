//! Why a request was not done. Both transports map these and nothing else.

use crate::access::{Denied, JoinError};
use crate::admission::Refused;
use crate::raft::{
    CaptureError, InitError, Leader, MemberError, ProposeError, ReadError, SnapshotError, TooOld,
};
use crate::session::RelayError;
use proto::convert::ConvertError;
use proto::id::NodeId;
use proto::manifest::Faults;
use proto::status::Phase;
use proto::wire;
use std::time::Duration;

/// A queue of thousands that is full now has gone by then.
const OVERLOADED: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("request_id: `{0}` is not a UUID; every write needs a new one, and its retries the same")]
    RequestId(String),
    /// What was sent is not what it should be.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// A manifest breaks rules, or the cluster's policy.
    #[error(transparent)]
    Manifest(#[from] Faults),
    #[error("{0}")]
    Invalid(String),
    #[error("{kind} {id} is not there")]
    NotFound { kind: &'static str, id: String },
    /// The cluster has decided against it.
    #[error("{}", .0.message)]
    Rejected(wire::Rejected),
    #[error("this replica does not lead; {}", leader_text(.0.as_ref()))]
    NotLeader(Option<Leader>),
    /// It may have taken effect, or may yet.
    #[error("{0}")]
    Propose(ProposeError),
    /// It has no effect.
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("no linearizable answer: {0}")]
    Read(#[from] ReadError),
    #[error("cannot form the cluster: {0}")]
    Init(#[from] InitError),
    #[error("no backup: {0}")]
    Backup(#[from] CaptureError),
    #[error("no backup: {0}")]
    BackupFiles(#[from] SnapshotError),
    #[error("the membership is not changed: {0}")]
    Member(MemberError),
    #[error("sandbox {0} is on no node, so that nothing of it was ever run")]
    NotPlaced(String),
    #[error("sandbox {id} is {phase}: nothing runs in it any more")]
    IsOver { id: String, phase: Phase },
    /// `what` is as a user calls it: exec.
    #[error("{what} of sandbox {id}: {source}")]
    Relay {
        what: &'static str,
        id: String,
        source: RelayError,
    },
    #[error("the agent of node {0} can't be reached: it has no session with the leader")]
    Away(NodeId),
    /// Of a watch.
    #[error(transparent)]
    TooOld(#[from] TooOld),
    #[error("nothing was read of this watch for {0:?}; it goes on from the last index that was read")]
    Unread(Duration),
    #[error("{0} watches are open at this replica already; ask another one, or later")]
    Watches(usize),
    #[error("this replica stops; ask another one")]
    Stopping,
    /// Who asks may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// No certificate.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// REST only: the leader, to which the request was handed on, can't be reached.
    #[error("the leader at {endpoint} cannot be reached: {message}")]
    Forward { endpoint: String, message: String },
}

impl Fault {
    /// When it makes sense to ask again, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Refused(refused) = self {
            return Some(refused.retry_after);
        }
        if let Self::Denied(Denied::TooMany { retry_after, .. }) = self {
            return Some(*retry_after);
        }
        let overloaded = matches!(
            self,
            Self::Propose(ProposeError::Overloaded { .. }) | Self::Read(ReadError::Overloaded { .. })
        );
        overloaded.then_some(OVERLOADED)
    }
}

fn leader_text(leader: Option<&Leader>) -> String {
    match leader {
        Some(leader) => format!("replica {} at {} does", leader.id, leader.endpoint),
        None => "which one does is not known at present".to_owned(),
    }
}

impl From<ProposeError> for Fault {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader(leader),
            ProposeError::Rejected(rejected) => Self::Rejected(rejected),
            error => Self::Propose(error),
        }
    }
}

impl From<MemberError> for Fault {
    fn from(error: MemberError) -> Self {
        match error {
            MemberError::NotLeader { leader } => Self::NotLeader(leader),
            MemberError::Number(error) => error.into(),
            error => Self::Member(error),
        }
    }
}

impl From<crate::security::SecurityError> for Fault {
    fn from(error: crate::security::SecurityError) -> Self {
        Self::Join(error.into())
    }
}

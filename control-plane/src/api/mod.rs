//! What users and agents can ask of a replica. Transports are thin: a question is checked and answered here once,
//! and said in gRPC and in REST beside each other.
//!
//! | module | owns |
//! |---|---|
//! | `write` | checks what shall change, and proposes it |
//! | `read` | linearizable and stale reads; what is filled in where an object is shown |
//! | `heartbeats` | what only the leader knows of nodes |
//! | `watch` | the present state, then every change |
//! | `backup` | the whole state as a stream |
//! | `members` | replicas that come and go |
//! | `relay` | finds the agent that has a sandbox, for its lines and for those who speak with it |
//! | `through_node` | what is asked of one node |
//! | `fault` | why a request was not done, for either transport |
//! | [`grpc`], [`rest`] | the transports, each with its one mapping of faults |
//!
//! Holds no state of its own. Called by `serve`.

mod backup;
mod fault;
pub mod grpc;
mod heartbeats;
mod members;
mod read;
mod relay;
pub mod rest;
mod through_node;
mod watch;
mod write;

pub use backup::Parts;
pub use fault::Fault;
pub use members::Steps;
pub use read::Query;
pub use relay::{Lines, Talk};
pub use watch::Mark;
pub use write::Write;
pub(crate) use write::check_request_id;

use crate::access::{Caller, Holds, audit};
use crate::admission::Admission;
use crate::raft::{Leader, Leadership, Replica};
use crate::session::{Liveness, Sessions};
use identity::dial::Dialer;
use proto::wire;
use spans::Exporter;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long a request waits for a leader to be elected: several elections.
const ELECTION: Duration = Duration::from_secs(2);

/// Everything that requests need. Cheap to clone: clones share.
#[derive(Clone)]
pub struct Api {
    replica: Replica,
    liveness: Liveness,
    sessions: Sessions,
    admission: Admission,
    heartbeats: heartbeats::Heartbeats,
    /// For how long streams go on.
    holds: Holds,
    /// One permit for each that is open.
    watches: Arc<Semaphore>,
    exporter: Exporter,
    /// Cancelled when the process is to stop: streams without end must end then.
    stopping: CancellationToken,
}

impl Api {
    #[must_use]
    pub fn new(
        replica: Replica,
        liveness: Liveness,
        sessions: Sessions,
        admission: Admission,
        dialer: Dialer,
        exporter: Exporter,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            holds: Holds::new(replica.clone()),
            replica,
            liveness,
            sessions,
            admission,
            heartbeats: heartbeats::Heartbeats::new(dialer),
            watches: Arc::new(Semaphore::new(watch::MAX_WATCHES)),
            exporter,
            stopping,
        }
    }

    /// Who leads, as far as this replica knows.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.replica.leadership().borrow().clone()
    }

    /// The same, once a leader is known or [`ELECTION`] has passed: clients that don't try again by themselves are to
    /// see a pause.
    pub(in crate::api) async fn settled_leadership(&self) -> Leadership {
        let mut leadership = self.replica.leadership();
        let known = leadership
            .wait_for(|now| now.is_self || now.leader.as_ref().is_some_and(|l| l.id != self.replica.id()));
        match tokio::time::timeout(ELECTION, known).await {
            Ok(Ok(now)) => now.clone(),
            Ok(Err(_)) | Err(_) => self.leadership(),
        }
    }

    /// Returns when another one leads, this replica or a third one.
    pub(in crate::api) async fn replaced(&self, leader: &Leader) {
        let mut leadership = self.replica.leadership();
        let replaced = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|now| now.id != leader.id));
        if replaced.await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether another one leads, once an election has had its time.
    pub(in crate::api) async fn is_replaced(&self, leader: &Leader) -> bool {
        tokio::time::timeout(ELECTION, self.replaced(leader))
            .await
            .is_ok()
    }

    /// The replicas, as the leader sees them; with `stale` as this one does, which may be cut off from the others.
    ///
    /// # Errors
    /// [`Fault::Read`] where no quorum answers.
    pub async fn cluster(&self, stale: bool) -> Result<wire::ClusterResponse, Fault> {
        if stale {
            return Ok(self.replica.cluster());
        }
        self.replica.linearize().await?;
        Ok(self.replica.describe_cluster().await)
    }

    /// Forms a cluster of `members`, this replica included.
    ///
    /// # Errors
    /// [`Fault::Init`]
    pub async fn init(&self, caller: &Caller, members: Vec<wire::Replica>) -> Result<(), Fault> {
        let formed = self.replica.init(members).await.map_err(Fault::from);
        audit::note(caller, "form", "cluster", &formed);
        formed
    }

    /// In which turn writes are taken.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Watches that are open.
    #[must_use]
    pub fn watches(&self) -> usize {
        watch::MAX_WATCHES - self.watches.available_permits()
    }

    /// The agents' side.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

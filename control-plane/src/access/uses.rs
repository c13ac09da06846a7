//! When tokens were used last. Kept in memory by the replica that saw them, and told to the cluster once in a while: a
//! request costs no entry of the log. What a replica has not told yet is lost with it, which is at most a minute.

use crate::clock;
use crate::raft::{ProposeError, Replica};
use identity::dial::{Dialer, UrlError};
use proto::wire::access_client::AccessClient;
use proto::wire::{self, command::Op};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// How often uses are told, and how exact they are.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// For telling the leader; what does not arrive is told the next time.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why uses are not told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("no leader is known")]
    NoLeader,
    #[error("the leader's address {0}")]
    Url(#[from] UrlError),
    #[error("the leader can't be reached: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("the leader: {0}")]
    Leader(String),
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Tokens that were used here, by id, with the time in milliseconds. Clones share.
#[derive(Debug, Clone, Default)]
pub(super) struct Uses(Arc<Mutex<BTreeMap<String, u64>>>);

impl Uses {
    pub(super) fn note(&self, id: &str) {
        let now = clock::now().0;
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(id) {
            Some(at) => *at = now,
            None => drop(uses.insert(id.to_owned(), now)),
        }
    }

    /// `None`: not used here since it was told last.
    pub(super) fn of(&self, id: &str) -> Option<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .copied()
    }

    fn take(&self) -> Vec<wire::TokenUse> {
        let taken = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        taken
            .into_iter()
            .map(|(id, at_ms)| wire::TokenUse { id, at_ms })
            .collect()
    }

    /// Tells the cluster once a minute; without end.
    pub(super) async fn tell(self, replica: Replica, dialer: Dialer) {
        let mut ticks = tokio::time::interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let uses = self.take();
            if uses.is_empty() {
                continue;
            }
            match tokio::time::timeout(TELL_TIMEOUT, tell(&replica, &dialer, uses)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "uses of tokens were not told"),
                Err(_) => tracing::debug!("uses of tokens were not told in time"),
            }
        }
    }
}

async fn tell(replica: &Replica, dialer: &Dialer, uses: Vec<wire::TokenUse>) -> Result<(), TellError> {
    let leadership = replica.leadership().borrow().clone();
    if leadership.is_self {
        return Ok(propose(replica, uses).await?);
    }
    let leader = leadership.leader.ok_or(TellError::NoLeader)?;
    let channel = dialer.connect(&dialer.endpoint(&leader.endpoint)?).await?;
    AccessClient::new(channel)
        .note_uses(wire::NoteUsesRequest { uses })
        .await
        .map_err(|status| TellError::Leader(status.message().to_owned()))?;
    Ok(())
}

/// Puts uses into the log.
pub(super) async fn propose(replica: &Replica, uses: Vec<wire::TokenUse>) -> Result<(), ProposeError> {
    let command = wire::Command {
        request_id: String::new(),
        op: Some(Op::NoteTokenUses(wire::NoteTokenUses { uses })),
    };
    replica.propose(command).await.map(drop)
}

//! Checks of whether all replicas hold the same: a command stands in the log, and each replica sums its whole state as it is
//! after that entry. (CockroachDB's consistency checker.) What the sums say is told and nothing more: a replica that differs
//! is not repaired, and not trusted less.
//!
//! Owns the sums that this replica has made; they are forgotten with the process. Begun by [`super::state_store`], asked
//! by [`super::peer`] and [`super::replica`].

use crate::state::{Digest, State};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Kept for who asks; an administrator makes one at a time.
const KEPT: usize = 16;
/// For a replica that lags to come to the entry, and to sum a state of gigabytes.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// Why a replica has no sum for a check.
pub(super) const NOT_SUMMED: &str =
    "it has not come to the check in time, or has come by it otherwise than by the log";

/// What a replica holds, at an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summed {
    /// Of the entry.
    pub index: u64,
    pub digest: Digest,
}

/// The sums of this replica. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks(Arc<watch::Sender<VecDeque<(String, Summed)>>>);

impl Checks {
    /// Sums the state as it is after the entry at `index`, which holds these checks. Entries are applied meanwhile.
    pub(super) fn begin(&self, checks: Vec<String>, index: u64, state: State) {
        let done = self.0.clone();
        tokio::task::spawn_blocking(move || {
            let digest = state.digest();
            tracing::info!(index, %digest, "the state was summed");
            done.send_modify(|sums| {
                let summed = Summed { index, digest };
                sums.extend(checks.into_iter().map(|check| (check, summed)));
                let excess = sums.len().saturating_sub(KEPT);
                sums.drain(..excess);
            });
        });
    }

    /// What came of a check, once it is there; `None`: it has not come in time.
    pub(super) async fn summed(&self, check: &str) -> Option<Summed> {
        let mut sums = self.0.subscribe();
        let found = |sums: &VecDeque<(String, Summed)>| {
            let found = sums.iter().find(|(id, _)| id == check);
            found.map(|(_, summed)| *summed)
        };
        let there = sums.wait_for(|sums| found(sums).is_some());
        let there = tokio::time::timeout(CHECK_TIMEOUT, there).await.ok()?;
        found(&*there.ok()?)
    }
}

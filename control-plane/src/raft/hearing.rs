//! When a leader spoke last to this replica. What a replica has voted for says for ever who led; that it is cut off from
//! the others, only their silence tells. Told by [`super::peer`], heeded by [`super::leadership`] and
//! [`super::dismissal`].

use super::tuning::ELECTION_TIMEOUT_MAX;
use crate::clock;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A leader that was not heard for so long leads nobody here: its lease and the longest timeout are over, so that this
/// replica itself stands for election.
const SILENT_AFTER: Duration = ELECTION_TIMEOUT_MAX.saturating_mul(2);

/// Where a leader's words are told. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Hearing(watch::Sender<Option<Instant>>);

impl Hearing {
    /// A leader speaks.
    pub(super) fn heard(&self) {
        self.0.send_replace(Some(clock::instant()));
    }

    /// For how long none has spoken; `None`: since the start.
    pub(super) fn silence(&self) -> Option<Duration> {
        let last = *self.0.borrow();
        last.map(|at| clock::instant().saturating_duration_since(at))
    }

    /// How long it takes yet until the leader counts as silent; `None`: it does.
    pub(super) fn hears_for(&self) -> Option<Duration> {
        SILENT_AFTER.checked_sub(self.silence()?)
    }

    /// Returns when a leader speaks after this call. Cancel safe.
    pub(super) async fn next(&self) {
        let mut words = self.0.subscribe();
        // It never ends before the sender, which is here.
        words.changed().await.ok();
    }
}

//! What this replica has applied, as all its readers see it, and what changes in it.
//!
//! Owns the [`State`] in memory. Only the state machine's store writes it; the API, the controller and the
//! agents' sessions read. Whether what is read is up to date is [`super::read`]'s question.

use super::history::{History, Subscription, TooOld};
use crate::state::{Applied, Change, State};
use proto::wire;
use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;

/// The replicated state, shared by all readers of this replica.
#[derive(Debug)]
pub struct Replicated {
    view: RwLock<View>,
    applied: watch::Sender<u64>,
    history: Arc<History>,
}

#[derive(Debug)]
struct View {
    state: State,
    index: u64,
}

/// What one log entry changed.
#[derive(Debug)]
pub struct ChangeSet {
    pub term: u64,
    pub index: u64,
    /// In the order in which they happened.
    pub changes: Vec<Change>,
    /// What they take, as they are stored.
    pub bytes: usize,
}

/// The state under a read lock. Keep it short, and never over an await: entries are not applied meanwhile.
#[derive(Debug)]
pub struct Reading<'a>(RwLockReadGuard<'a, View>);

impl Reading<'_> {
    /// Of the last entry that the state shows; 0 before the first.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.0.index
    }
}

impl Deref for Reading<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0.state
    }
}

impl Replicated {
    pub(super) fn new(state: State, index: u64) -> Self {
        Self {
            view: RwLock::new(View { state, index }),
            applied: watch::Sender::new(index),
            history: Arc::new(History::new(index)),
        }
    }

    /// What has been applied so far. While it is held nothing is applied.
    #[must_use]
    pub fn read(&self) -> Reading<'_> {
        // Poisoned means that apply panicked: consensus has stopped then, and what is here is only shown.
        Reading(self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The index of the last applied entry, which [`Replicated::read`] shows by then.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.subscribe_with(|_| ()).1
    }

    /// Reads, and subscribes to what changes from what was read: nothing is missed, nothing doubled.
    pub fn subscribe_with<T>(&self, read: impl FnOnce(&Reading<'_>) -> T) -> (T, Subscription) {
        let reading = self.read();
        let changes = self.history.after(reading.index());
        let changes = changes.expect("the history goes as far as the state that is locked here");
        (read(&reading), changes)
    }

    /// Changes after the index `since`, as long as they are kept.
    ///
    /// # Errors
    /// [`TooOld`]
    pub fn changes_after(&self, since: u64) -> Result<Subscription, TooOld> {
        self.history.after(since)
    }

    /// Applies an entry's batch, shows it and tells subscribers. Returns what is to be written and answered.
    pub(super) fn apply(&self, term: u64, index: u64, batch: wire::Batch) -> Applied {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let mut applied = view.state.apply_batch(index, batch);
        view.index = index;
        let changes = std::mem::take(&mut applied.changes);
        // Under the write lock, here and below, so that a subscription is before or after it, never amid.
        if changes.is_empty() {
            self.history.skip(index);
        } else {
            let written = applied.writes.iter();
            self.history.push(ChangeSet {
                term,
                index,
                changes,
                bytes: written
                    .map(|write| write.value.as_ref().map_or(0, Vec::len))
                    .sum(),
            });
        }
        applied
    }

    /// An entry that leaves the state as it is.
    pub(super) fn skip(&self, index: u64) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        view.index = index;
        self.history.skip(index);
    }

    /// Puts a snapshot's state in the place of all there was.
    pub(super) fn reset(&self, state: State, index: u64) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *view, View { state, index });
        self.history.reset(index);
        drop(view);
        self.announce(index);
        // Freeing a large state takes a while: not under the lock.
        drop(old);
    }

    /// Wakes who waits for `index`: called at the end of a run of entries.
    pub(super) fn announce(&self, index: u64) {
        self.applied.send_replace(index);
    }
}

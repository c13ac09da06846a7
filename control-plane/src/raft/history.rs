//! The last changes of the state, kept so that who reads them may be slow, or come back after a break.
//!
//! Owns the change sets and their bound; who reads has a position of his own and no queue: one that is too slow costs
//! no memory, and is told [`TooOld`] instead of a gap. Filled by [`super::replicated`]; read through [`Subscription`]
//! by watches, the controller and the agents' sessions.

use super::replicated::ChangeSet;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// Change sets kept, one per log entry that changed something: hours of a quiet cluster.
const MAX_SETS: usize = 16_384;
/// What they may take, counted as their objects are stored: minutes at a hundred writes a second, some seconds of the
/// highest rate. In memory it is two to three times as much.
const MAX_BYTES: usize = 32 << 20;
/// Sets that a subscription takes at a time: few locks, and little that a slow reader holds.
const TAKEN_AT_ONCE: usize = 64;

/// The changes that were asked for are not kept, or are none of this cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the changes after index {since} are not there to be told: this replica keeps those after {oldest}, up to {newest}. \
     List again, and go on from the index of the list"
)]
pub struct TooOld {
    pub since: u64,
    /// Changes of entries after this one are kept.
    pub oldest: u64,
    /// Of the last entry that was applied.
    pub newest: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    kept: RwLock<Kept>,
    /// The index of the newest set.
    told: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    /// By index.
    sets: VecDeque<Arc<ChangeSet>>,
    bytes: usize,
    /// Every change after this index is in `sets`.
    oldest: u64,
    /// Of the last applied entry, whether it changed anything or not.
    newest: u64,
}

/// A reader's place. Each change is received once, in order, or [`TooOld`] is.
#[derive(Debug)]
pub struct Subscription {
    history: Arc<History>,
    /// Everything up to this index was received.
    position: u64,
    taken: VecDeque<Arc<ChangeSet>>,
    told: watch::Receiver<u64>,
}

impl History {
    /// Of a state that shows the log up to `index`.
    pub(super) fn new(index: u64) -> Self {
        Self {
            kept: RwLock::new(Kept {
                sets: VecDeque::new(),
                bytes: 0,
                oldest: index,
                newest: index,
            }),
            told: watch::Sender::new(index),
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Kept> {
        self.kept.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest set. The oldest ones go where there are too many; the newest one always stays.
    pub(super) fn push(&self, set: ChangeSet) {
        let index = set.index;
        let mut kept = self.write();
        kept.newest = index;
        kept.bytes += set.bytes;
        kept.sets.push_back(Arc::new(set));
        while kept.sets.len() > 1 && (kept.sets.len() > MAX_SETS || kept.bytes > MAX_BYTES) {
            if let Some(gone) = kept.sets.pop_front() {
                kept.bytes -= gone.bytes;
                kept.oldest = gone.index;
            }
        }
        drop(kept);
        self.told.send_replace(index);
    }

    /// An entry that changed nothing.
    pub(super) fn skip(&self, index: u64) {
        self.write().newest = index;
    }

    /// Something unknown has led to `index`: nothing before it can be told.
    pub(super) fn reset(&self, index: u64) {
        let mut kept = self.write();
        *kept = Kept {
            sets: VecDeque::new(),
            bytes: 0,
            oldest: index,
            newest: index,
        };
        drop(kept);
        self.told.send_replace(index);
    }

    /// # Errors
    /// [`TooOld`]
    pub(super) fn after(self: &Arc<Self>, since: u64) -> Result<Subscription, TooOld> {
        let told = self.told.subscribe();
        self.read().check(since)?;
        Ok(Subscription {
            history: self.clone(),
            position: since,
            taken: VecDeque::new(),
            told,
        })
    }
}

impl Kept {
    fn check(&self, since: u64) -> Result<(), TooOld> {
        if (self.oldest..=self.newest).contains(&since) {
            return Ok(());
        }
        Err(TooOld {
            since,
            oldest: self.oldest,
            newest: self.newest,
        })
    }
}

impl Subscription {
    /// Everything up to this index of the log was received.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next changes; waits for them without end. Cancel safe.
    ///
    /// # Errors
    /// [`TooOld`] where they were there and are gone: read everything anew.
    pub async fn recv(&mut self) -> Result<Arc<ChangeSet>, TooOld> {
        loop {
            self.told.borrow_and_update();
            if let Some(set) = self.try_recv()? {
                return Ok(set);
            }
            // Its other end is in the history, which is here: this never fails.
            if self.told.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next changes, if there are any by now.
    ///
    /// # Errors
    /// As of [`Self::recv`].
    pub fn try_recv(&mut self) -> Result<Option<Arc<ChangeSet>>, TooOld> {
        if self.taken.is_empty() {
            self.take()?;
        }
        let next = self.taken.pop_front();
        if let Some(set) = &next {
            self.position = set.index;
        }
        Ok(next)
    }

    fn take(&mut self) -> Result<(), TooOld> {
        let kept = self.history.read();
        kept.check(self.position)?;
        let from = kept.sets.partition_point(|set| set.index <= self.position);
        let next = kept.sets.range(from..).take(TAKEN_AT_ONCE).cloned();
        self.taken.extend(next);
        if self.taken.is_empty() {
            self.position = kept.newest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(index: u64, bytes: usize) -> ChangeSet {
        ChangeSet {
            term: 1,
            index,
            changes: Vec::new(),
            bytes,
        }
    }

    fn received(subscription: &mut Subscription) -> Vec<u64> {
        std::iter::from_fn(|| subscription.try_recv().expect("it is kept"))
            .map(|set| set.index)
            .collect()
    }

    #[test]
    fn reader_goes_on_where_he_was_and_receives_each_set_once() {
        let history = Arc::new(History::new(10));
        for index in [11, 13, 200] {
            history.push(set(index, 1));
        }
        history.skip(205);
        for (since, expected) in [
            (10, vec![11, 13, 200]),
            (11, vec![13, 200]),
            (12, vec![13, 200]),
            (200, vec![]),
            (205, vec![]),
        ] {
            let mut reader = history.after(since).expect("it is kept");
            assert_eq!(received(&mut reader), expected, "since {since}");
            assert_eq!(reader.position(), 205, "since {since}");
        }
    }

    #[track_caller]
    fn check_refused(history: &Arc<History>, since: u64, oldest: u64, newest: u64) {
        let refused = history.after(since).map(|reader| reader.position());
        assert_eq!(
            refused,
            Err(TooOld {
                since,
                oldest,
                newest
            })
        );
    }

    #[test]
    fn what_is_not_kept_is_refused_and_never_left_out() {
        let history = Arc::new(History::new(10));
        check_refused(&history, 9, 10, 10);
        check_refused(&history, 11, 10, 10);
        let mut slow = history.after(10).expect("it is kept");
        for index in 11..=10 + MAX_SETS as u64 + 5 {
            history.push(set(index, 1));
        }
        let newest = 10 + MAX_SETS as u64 + 5;
        check_refused(&history, 14, 15, newest);
        let error = slow.try_recv().expect_err("it was too slow");
        assert_eq!((error.since, error.oldest), (10, 15));
        history.reset(newest + 100);
        check_refused(&history, newest, newest + 100, newest + 100);
        assert!(received(&mut history.after(newest + 100).expect("it is there")).is_empty());
    }

    #[test]
    fn bytes_are_bounded_but_the_newest_set_stays() {
        let history = Arc::new(History::new(0));
        let mut reader = history.after(0).expect("it is kept");
        history.push(set(1, MAX_BYTES * 2));
        assert_eq!(received(&mut reader), [1]);
        history.push(set(2, MAX_BYTES / 2));
        history.push(set(3, MAX_BYTES / 2));
        assert_eq!(received(&mut reader), [2, 3]);
        check_refused(&history, 0, 1, 3);
        history.push(set(4, 1));
        check_refused(&history, 1, 2, 4);
    }

    #[tokio::test]
    async fn waiting_reader_is_woken_by_a_change_and_by_a_reset() {
        let history = Arc::new(History::new(0));
        let mut reader = history.after(0).expect("it is kept");
        let pushing = history.clone();
        let (got, ()) = tokio::join!(reader.recv(), async move {
            tokio::task::yield_now().await;
            pushing.push(set(1, 1));
        });
        assert_eq!(got.expect("it is kept").index, 1);
        let (got, ()) = tokio::join!(reader.recv(), async {
            tokio::task::yield_now().await;
            history.reset(9);
        });
        assert_eq!(got.expect_err("everything is new").oldest, 9);
    }
}

//! Keeps the log short in bytes. openraft counts entries alone, and one may hold a MiB: a snapshot is taken when enough was
//! written since the last one, and what it covers goes as soon as more is kept than a follower that was away for a while
//! would need. Owns the two bounds; called by [`super::replica`].

use super::replica::Raft;
use openraft::async_runtime::WatchReceiver;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// When the log is made shorter, in bytes as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Written since the last snapshot: the next one.
    pub(super) snapshot: u64,
    /// Kept although a snapshot covers it.
    pub(super) keep: u64,
}

impl Bounds {
    /// A restart reads the log once and applies what no snapshot covers: some seconds at most.
    pub(super) const DEFAULT: Self = Self {
        snapshot: 64 << 20,
        keep: 256 << 20,
    };
}

/// Entries between two marks of the log's growth, in bytes: as exact as the bounds need to be.
const MARK_EVERY: u64 = 1 << 20;

/// How long the log has grown, by index. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Growth(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Of all entries that were ever appended or found here.
    total: AtomicU64,
    /// Ascending: up to this entry, so many bytes.
    marks: Mutex<VecDeque<Mark>>,
    grown: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    index: u64,
    total: u64,
}

impl Growth {
    /// An entry was appended, or found at the start.
    pub(super) fn add(&self, index: u64, bytes: u64) {
        let total = self.0.total.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let mut marks = self.marks();
        // A conflicting end was replaced.
        while marks.back().is_some_and(|mark| mark.index >= index) {
            marks.pop_back();
        }
        if marks.back().is_none_or(|mark| total >= mark.total + MARK_EVERY) {
            marks.push_back(Mark { index, total });
            drop(marks);
            self.0.grown.notify_one();
        }
    }

    fn total(&self) -> u64 {
        self.0.total.load(Ordering::Acquire)
    }

    /// Bytes behind entry `index`, within a mark.
    fn since(&self, index: u64) -> u64 {
        let marks = self.marks();
        let at = marks.iter().rev().find(|mark| mark.index <= index);
        let before = at.or(marks.front()).map_or(0, |mark| mark.total);
        self.total().saturating_sub(before)
    }

    /// The last entry behind which more than `keep` bytes follow.
    fn beyond(&self, keep: u64) -> Option<u64> {
        let total = self.total();
        let marks = self.marks();
        let old = marks.iter().rev().find(|mark| total - mark.total >= keep);
        old.map(|mark| mark.index)
    }

    fn forget(&self, upto: u64) {
        let mut marks = self.marks();
        while marks.get(1).is_some_and(|next| next.index <= upto) {
            marks.pop_front();
        }
    }

    fn marks(&self) -> MutexGuard<'_, VecDeque<Mark>> {
        self.0.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Heeds the bounds until consensus ends.
pub(super) async fn run(raft: Raft, growth: Growth, bounds: Bounds) {
    let mut metrics = raft.metrics();
    let mut asked = None;
    loop {
        let (running, snapshot, purged) = {
            let now = metrics.borrow_and_update();
            let index = |id: Option<super::types::LogId>| id.map_or(0, |id| id.index);
            (now.running_state.is_ok(), index(now.snapshot), index(now.purged))
        };
        if !running {
            return;
        }
        let acted = async {
            if growth.since(snapshot) >= bounds.snapshot && asked != Some(snapshot) {
                raft.trigger().snapshot().await?;
                asked = Some(snapshot);
            }
            if let Some(old) = growth.beyond(bounds.keep).map(|old| old.min(snapshot))
                && old > purged
            {
                raft.trigger().purge_log(old).await?;
                growth.forget(old);
            }
            Ok::<_, openraft::errors::Fatal<super::types::TypeConfig>>(())
        };
        if acted.await.is_err() {
            return;
        }
        // A snapshot that is ready is told by the metrics, which change with every entry: looked at only where one was
        // asked for.
        let awaits_snapshot = asked == Some(snapshot);
        tokio::select! {
            () = growth.0.grown.notified() => {}
            changed = metrics.changed(), if awaits_snapshot => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_known_by_index_within_a_mark() {
        let growth = Growth::default();
        for index in 1..=100 {
            growth.add(index, MARK_EVERY / 2);
        }
        assert_eq!(growth.total(), 50 << 20);
        let near = |bytes: u64, expected_mib: u64| {
            assert!(bytes.abs_diff(expected_mib << 20) <= MARK_EVERY, "{bytes}");
        };
        near(growth.since(100), 0);
        near(growth.since(50), 25);
        let old = growth.beyond(10 << 20).expect("there is more");
        assert!(old.abs_diff(80) <= 2, "{old}");
        assert_eq!(growth.beyond(60 << 20), None);
        growth.forget(80);
        near(growth.since(90), 5);
        // The end is replaced by another leader's.
        growth.add(95, MARK_EVERY);
        assert!(growth.marks().iter().all(|mark| mark.index <= 95));
    }
}

//! The host ids of sandboxes that have user namespaces: a range each. Owns who has which, in memory; the sandboxes' own
//! records tell it after a restart. Called by `observe` and `execute`.

use crate::config::IdBlock;
use crate::runtime::user_namespace::{IDS, IdRange};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Every range is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "all {0} ranges of user ids of this node's sandboxes are taken; delete ended sandboxes, or give the agent more \
     --user-ids"
)]
pub struct Exhausted(u32);

/// Shared by all sandboxes.
#[derive(Debug)]
pub struct UserIds {
    block: IdBlock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The first id of each.
    taken: BTreeSet<u32>,
    /// The number of the one to try next.
    next: u32,
}

impl UserIds {
    #[must_use]
    pub fn new(block: IdBlock) -> Self {
        Self {
            block,
            state: Mutex::default(),
        }
    }

    /// One that no sandbox has. Each is given only after all others were: what a sandbox might have left somewhere is
    /// not soon another one's.
    ///
    /// # Errors
    /// [`Exhausted`]
    pub fn take(&self) -> Result<IdRange, Exhausted> {
        let mut state = self.lock();
        let (begin, count) = (state.next, self.block.ranges());
        let mut ranges = (begin..count)
            .chain(0..begin)
            .filter_map(|number| Some((number, self.block.range(number)?)));
        // Those of a block with another beginning overlap two of ours.
        let is_free = |range: &IdRange| {
            let overlapping = range.root().saturating_sub(IDS - 1)..range.root() + IDS;
            state.taken.range(overlapping).next().is_none()
        };
        let found = ranges.find(|(_, range)| is_free(range));
        let (number, range) = found.ok_or(Exhausted(count))?;
        state.taken.insert(range.root());
        state.next = (number + 1) % count;
        Ok(range)
    }

    /// Notes that a sandbox has the range already. One of another block than today's is noted too.
    pub fn keep(&self, range: IdRange) {
        let mut state = self.lock();
        state.taken.insert(range.root());
        if let Some(number) = self.block.number_of(range) {
            state.next = state.next.max((number + 1) % self.block.ranges());
        }
    }

    pub fn give_back(&self, range: IdRange) {
        self.lock().taken.remove(&range.root());
    }

    /// A panic while the lock was held leaves a whole set.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> UserIds {
        UserIds::new(IdBlock {
            first: 1 << 28,
            count: 4 * IDS,
        })
    }

    fn take(ids: &UserIds) -> u32 {
        (ids.take().expect("one is free").root() - (1 << 28)) / IDS
    }

    fn range(first: u32) -> IdRange {
        IdRange::from(first).expect("a range")
    }

    #[test]
    fn every_range_is_given_once_and_then_there_is_none() {
        let ids = ids();
        assert_eq!([0; 4].map(|_| take(&ids)), [0, 1, 2, 3]);
        assert_eq!(ids.take(), Err(Exhausted(4)));
        ids.give_back(range((1 << 28) + 2 * IDS));
        assert_eq!(take(&ids), 2);
    }

    #[test]
    fn range_given_back_is_the_last_to_be_given_again() {
        let ids = ids();
        assert_eq!(take(&ids), 0);
        ids.give_back(range(1 << 28));
        assert_eq!([0; 4].map(|_| take(&ids)), [1, 2, 3, 0]);
    }

    #[test]
    fn kept_range_is_not_given_also_one_that_overlaps_two() {
        let ids = ids();
        ids.keep(range((1 << 28) + IDS + 7));
        ids.keep(range(100_000));
        assert_eq!([0; 2].map(|_| take(&ids)), [0, 3]);
        assert_eq!(ids.take(), Err(Exhausted(4)));
    }
}

//! The open sessions of this replica, by node: who is there, what each must be told, and the way to each agent. Owns
//! no stream and decides nothing. Written by `stream` (its own entry) and `dispatch`, read by `relay`.

use proto::id::{NodeId, Uid};
use proto::wire;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::SessionError;

/// Messages that wait for a slow connection. Desired states are made when there is room for them, so that few are
/// enough.
pub(super) const OUTBOX: usize = 16;

pub(super) type Outbox = mpsc::Sender<Result<wire::LeaderMessage, SessionError>>;

/// All sessions. Clones share.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Arc<Mutex<HashMap<NodeId, Arc<Entry>>>>);

/// One session, as others see it.
#[derive(Debug)]
pub(super) struct Entry {
    stale: Mutex<Stale>,
    /// `stale` has something to tell.
    changed: Notify,
    /// Somebody wants to hear a heartbeat.
    asked: Notify,
    outbox: Outbox,
    /// Another session of the same node has begun, or the node was deleted.
    ended: CancellationToken,
}

/// What the agent does not know yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    /// Everything.
    pub(super) full: bool,
    pub(super) sandboxes: BTreeSet<Uid>,
}

/// Takes its entry out of the table when the session ends.
pub(super) struct Seat {
    table: Table,
    node: NodeId,
    entry: Arc<Entry>,
}

impl Table {
    /// Opens the session of `node`; an older one ends.
    pub(super) fn open(&self, node: &NodeId, outbox: Outbox) -> Seat {
        let entry = Arc::new(Entry {
            stale: Mutex::default(),
            changed: Notify::new(),
            asked: Notify::new(),
            outbox,
            ended: CancellationToken::new(),
        });
        if let Some(older) = self.lock().insert(node.clone(), Arc::clone(&entry)) {
            older.ended.cancel();
        }
        Seat {
            table: self.clone(),
            node: node.clone(),
            entry,
        }
    }

    /// Open sessions.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<Arc<Entry>> {
        self.lock().get(node).cloned()
    }

    /// The agent of `node` must hear of a sandbox.
    pub(super) fn touch(&self, node: &NodeId, uid: Uid) {
        if let Some(entry) = self.get(node) {
            entry.stale().sandboxes.insert(uid);
            entry.changed.notify_one();
        }
    }

    /// The agent of `node` must hear everything anew; `false`: it is not here.
    pub(super) fn touch_whole(&self, node: &NodeId) -> bool {
        let Some(entry) = self.get(node) else {
            return false;
        };
        entry.stale().full = true;
        entry.changed.notify_one();
        true
    }

    /// The agent of `node` must say that it lives; `false`: it is not here.
    pub(super) fn ask(&self, node: &NodeId) -> bool {
        let Some(entry) = self.get(node) else {
            return false;
        };
        entry.asked.notify_one();
        true
    }

    /// Every agent must hear everything anew.
    pub(super) fn touch_all(&self) {
        for entry in self.lock().values() {
            entry.stale().full = true;
            entry.changed.notify_one();
        }
    }

    /// Ends the session of `node`, if there is one.
    pub(super) fn end(&self, node: &NodeId) {
        if let Some(entry) = self.lock().remove(node) {
            entry.ended.cancel();
        }
    }

    /// A panic while the lock was held leaves whole entries, so that the map is good still.
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Returns when there is something that the agent does not know.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns when somebody wants to hear a heartbeat.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Returns when the session must end for another's sake.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// What the agent does not know; from here on it counts as told.
    pub(super) fn take_stale(&self) -> Stale {
        std::mem::take(&mut *self.stale())
    }

    fn stale(&self) -> MutexGuard<'_, Stale> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut sessions = self.table.lock();
        if sessions
            .get(&self.node)
            .is_some_and(|entry| Arc::ptr_eq(entry, &self.entry))
        {
            sessions.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sample::node;

    fn seat(table: &Table) -> Seat {
        table.open(&node("n"), mpsc::channel(1).0)
    }

    #[test]
    fn second_session_of_a_node_ends_the_first_and_stays() {
        let table = Table::default();
        let first = seat(&table);
        let second = seat(&table);
        assert!(first.entry.ended.is_cancelled());
        drop(first);
        assert!(
            table
                .get(&node("n"))
                .is_some_and(|e| Arc::ptr_eq(&e, second.entry()))
        );
        drop(second);
        assert!(table.get(&node("n")).is_none());
    }

    #[tokio::test]
    async fn what_is_touched_is_told_once() {
        let table = Table::default();
        let seat = seat(&table);
        table.touch(&node("n"), Uid(1));
        table.touch(&node("n"), Uid(1));
        table.touch(&node("other"), Uid(2));
        seat.entry().changed().await;
        let stale = seat.entry().take_stale();
        assert_eq!(stale.sandboxes, BTreeSet::from([Uid(1)]));
        assert_eq!(seat.entry().take_stale(), Stale::default());
        table.touch_all();
        assert!(seat.entry().take_stale().full);
    }
}

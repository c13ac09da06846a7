//! When each agent was heard last, in the leader's memory and never in the log. Owns these times; decides
//! nothing from them. Written by `session`, read by the leader's `controller` (grace and lease) and by `api`
//! (the time shown).

use crate::clock;
use proto::id::NodeId;
use proto::units::Timestamp;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Shared between the sessions and those who ask. Empty on a replica that has just become leader: whoever reads
/// it must count from the later of `last_seen` and the begin of the leadership.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    heard: Arc<Mutex<HashMap<NodeId, Heard>>>,
    /// Somebody was heard.
    news: Arc<Notify>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    wall: Timestamp,
}

impl Liveness {
    /// The agent of `node` was heard now.
    pub fn heard(&self, node: &NodeId) {
        let heard = Heard {
            at: clock::instant(),
            wall: clock::now(),
        };
        let mut nodes = self.lock();
        match nodes.get_mut(node) {
            Some(entry) => *entry = heard,
            None => drop(nodes.insert(node.clone(), heard)),
        }
        drop(nodes);
        self.news.notify_waiters();
    }

    /// Returns when the agent of `node` is heard after `since`.
    pub async fn heard_after(&self, node: &NodeId, since: Instant) {
        loop {
            let news = self.news.notified();
            if self.last_seen(node).is_some_and(|at| at > since) {
                return;
            }
            news.await;
        }
    }

    /// By the monotonic clock; `None`: not since this replica became leader.
    #[must_use]
    pub fn last_seen(&self, node: &NodeId) -> Option<Instant> {
        self.lock().get(node).map(|heard| heard.at)
    }

    /// By the wall clock, for showing it.
    #[must_use]
    pub fn last_heartbeat(&self, node: &NodeId) -> Option<Timestamp> {
        self.lock().get(node).map(|heard| heard.wall)
    }

    /// Forgets every node: another replica is leader and hears them.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// A panic while the lock was held leaves whole entries, so that the map is good still.
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

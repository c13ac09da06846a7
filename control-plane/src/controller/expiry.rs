//! Deletes what has outlived its TTL, and what has ended and outlived its retention. Owns one deadline per
//! sandbox that has one, and sleeps until the earliest. Called by `Controller`.

use super::{Proposed, catch_up, propose};
use crate::clock;
use crate::raft::{ChangeSet, Replica, TooOld};
use crate::state::{Change, State, expires_at};
use proto::id::{SandboxId, Uid};
use proto::object::Sandbox;
use proto::units::Timestamp;
use proto::wire::{self, command::Op};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The wall clock may be set forward meanwhile: looked at this often at least.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A deadline that the log's time has not reached yet is tried again after this.
const SHORTEST_SLEEP: Duration = Duration::from_millis(5);
/// Sandboxes in one proposal; more wait for the next one, at once.
const BATCH: usize = 1_000;

/// When each sandbox is due, by time and by uid.
#[derive(Debug, Default)]
struct Deadlines {
    by_time: BTreeMap<(Timestamp, Uid), SandboxId>,
    by_uid: HashMap<Uid, Timestamp>,
}

/// Runs until it is dropped.
pub(super) async fn run(replica: &Replica, retention: Duration) {
    loop {
        let (mut deadlines, mut changes) = replica
            .replicated()
            .subscribe_with(|state| Deadlines::of(state, retention));
        loop {
            let changed = tokio::select! {
                changed = changes.recv() => changed,
                () = tokio::time::sleep(deadlines.wait(clock::now())) => {
                    expire(replica, deadlines.due(clock::now()), retention).await;
                    if !catch_up(&mut changes, |set| deadlines.update(set, retention)) {
                        break;
                    }
                    continue;
                }
            };
            match changed {
                Ok(set) => deadlines.update(&set, retention),
                Err(TooOld { .. }) => break,
            }
        }
    }
}

async fn expire(replica: &Replica, due: Vec<(SandboxId, Uid)>, retention: Duration) {
    if due.is_empty() {
        return;
    }
    let count = due.len();
    let sandboxes = due
        .into_iter()
        .map(|(id, uid)| wire::ExpireSandbox {
            sandbox_id: id.to_string(),
            uid: uid.0,
        })
        .collect();
    let expire = wire::Expire {
        sandboxes,
        ended_retention_ms: u64::try_from(retention.as_millis()).unwrap_or(u64::MAX),
    };
    if propose(replica, Op::Expire(expire)).await == Proposed::Done {
        tracing::info!(count, "sandboxes expired");
    }
}

impl Deadlines {
    fn of(state: &State, retention: Duration) -> Self {
        let mut deadlines = Self::default();
        for sandbox in state.sandboxes() {
            deadlines.set(sandbox, retention);
        }
        deadlines
    }

    fn update(&mut self, set: &ChangeSet, retention: Duration) {
        for change in &set.changes {
            match change {
                Change::Sandbox { before, after, .. } => {
                    if let Some(before) = before {
                        self.remove(before.uid);
                    }
                    if let Some(after) = after {
                        self.set(after, retention);
                    }
                }
                Change::Node { .. } | Change::External { .. } => {}
            }
        }
    }

    fn set(&mut self, sandbox: &Sandbox, retention: Duration) {
        self.remove(sandbox.uid);
        if let Some(at) = expires_at(sandbox, retention) {
            self.by_time.insert((at, sandbox.uid), sandbox.id.clone());
            self.by_uid.insert(sandbox.uid, at);
        }
    }

    fn remove(&mut self, uid: Uid) {
        if let Some(at) = self.by_uid.remove(&uid) {
            self.by_time.remove(&(at, uid));
        }
    }

    /// Until the earliest one.
    fn wait(&self, now: Timestamp) -> Duration {
        let earliest = self.by_time.first_key_value().map(|((at, _), _)| *at);
        earliest.map_or(LONGEST_SLEEP, |at| {
            at.since(now).clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
        })
    }

    /// Those that are over; at most [`BATCH`] of them. They stay until the state says that they are dealt with.
    fn due(&self, now: Timestamp) -> Vec<(SandboxId, Uid)> {
        let over = self.by_time.iter().take_while(|((at, _), _)| *at <= now);
        over.take(BATCH)
            .map(|((_, uid), id)| (id.clone(), *uid))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sample::sandbox;
    use proto::status::Phase;

    const RETENTION: Duration = Duration::from_secs(60);

    #[test]
    fn changed_deadline_replaces_the_old_one() {
        let mut deadlines = Deadlines::default();
        let mut sandbox = sandbox("s", 1, Phase::Running, None);
        sandbox.status.expire_at = Some(Timestamp(10));
        deadlines.set(&sandbox, RETENTION);
        assert_eq!(deadlines.wait(Timestamp(4)), Duration::from_millis(6));
        assert_eq!(deadlines.due(Timestamp(10)), [(sandbox.id.clone(), Uid(1))]);
        sandbox.status.expire_at = Some(Timestamp(20));
        deadlines.set(&sandbox, RETENTION);
        assert_eq!(deadlines.due(Timestamp(10)), []);
        sandbox.status.expire_at = None;
        deadlines.set(&sandbox, RETENTION);
        assert_eq!(deadlines.wait(Timestamp(20)), LONGEST_SLEEP);
    }
}

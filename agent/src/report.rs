//! What this node has to tell of its sandboxes: the latest state of each, and what has changed since somebody
//! looked. Owns these states in memory; sends nothing. Written by the sandboxes' tasks, read by `session`.
//!
//! Nothing is queued: a sandbox that changes ten times before a leader can be told is told once. Whatever a
//! broken stream has lost comes again, because a new stream begins with [`Reports::inventory`].

use proto::id::{SandboxId, Uid};
use proto::status::Phase;
use proto::wire;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Sandboxes that are gone are told to every new leader, in case that the last one has died before it could
/// write it down. This many are a burst of deletions; leaders compare their own list with the inventory anyway.
const MAX_GONE: usize = 1_024;
/// What one message carries, far below gRPC's bound of 4 MiB.
pub const MAX_PER_MESSAGE: usize = 256;
/// A last error is read by a person; longer ones are cut.
pub const MAX_MESSAGE_BYTES: usize = 2_000;

/// Cheap to clone; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Reports {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    states: Mutex<States>,
    revision: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct States {
    revision: u64,
    by_uid: BTreeMap<Uid, (u64, wire::SandboxReport)>,
    /// Revision to sandbox: the changes in their order.
    changes: BTreeMap<u64, Uid>,
}

/// How much of the reports somebody has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen(u64);

impl Reports {
    /// The state of a sandbox from now on. One without an id is a leftover that no leader could make sense of: it
    /// is not told.
    pub fn set(&self, mut report: wire::SandboxReport) {
        if report.sandbox_id.is_empty() {
            return;
        }
        cut(&mut report.message);
        let mut states = self.lock();
        let uid = Uid(report.uid);
        if let Some((_, known)) = states.by_uid.get(&uid)
            && *known == report
        {
            return;
        }
        states.put(uid, report);
        self.publish(states);
    }

    /// Nothing of the sandbox is left here. Told again however often it is called: a leader has asked.
    pub fn gone(&self, uid: Uid, id: &str) {
        if id.is_empty() {
            return;
        }
        let mut states = self.lock();
        let report = wire::SandboxReport {
            sandbox_id: id.to_owned(),
            uid: uid.0,
            phase: wire::Phase::Deleting.into(),
            ..Default::default()
        };
        states.put(uid, report);
        states.forget_old_graves();
        self.publish(states);
    }

    /// Everything there is to tell, and where to go on from.
    #[must_use]
    pub fn inventory(&self) -> (Vec<wire::SandboxReport>, Seen) {
        let states = self.lock();
        let all = states.by_uid.values().map(|(_, report)| report.clone());
        (all.collect(), Seen(states.revision))
    }

    /// What has changed since `seen`, at most [`MAX_PER_MESSAGE`] sandboxes, each as it is now. Waits where nothing has.
    pub async fn changed(&self, seen: &mut Seen) -> Vec<wire::SandboxReport> {
        let mut revision = self.inner.revision.subscribe();
        // The sender lives as long as this.
        revision.wait_for(|newest| *newest > seen.0).await.ok();
        let states = self.lock();
        let news = states.changes.range(seen.0 + 1..).take(MAX_PER_MESSAGE);
        let mut reports = Vec::new();
        for (revision, uid) in news {
            seen.0 = *revision;
            reports.extend(states.by_uid.get(uid).map(|(_, report)| report.clone()));
        }
        reports
    }

    /// The newest sandbox of that id, and its state.
    #[must_use]
    pub fn find(&self, id: &SandboxId) -> Option<(Uid, wire::SandboxReport)> {
        let states = self.lock();
        let mut newest_first = states.by_uid.iter().rev();
        let found = newest_first.find(|(_, (_, report))| report.sandbox_id == id.as_str());
        found.map(|(uid, (_, report))| (*uid, report.clone()))
    }

    /// Returns when the sandbox runs, or will never.
    pub async fn begun(&self, uid: Uid) {
        self.phase(uid, |phase| phase > Phase::Scheduled).await;
    }

    /// Returns when the sandbox has ended or is gone.
    pub async fn ended(&self, uid: Uid) {
        self.phase(uid, |phase| phase > Phase::Running).await;
    }

    /// Returns when the sandbox's phase is such, or nothing is known of it.
    async fn phase(&self, uid: Uid, is_such: impl Fn(Phase) -> bool) {
        let mut revision = self.inner.revision.subscribe();
        let reached = |_: &u64| {
            let phase = self.lock().by_uid.get(&uid).map(|(_, report)| report.phase());
            phase
                .and_then(|phase| Phase::try_from(phase).ok())
                .is_none_or(&is_such)
        };
        // The sender lives as long as this.
        revision.wait_for(reached).await.ok();
    }

    /// Without the lock: who waits for a revision takes it while the revision is locked.
    fn publish(&self, states: MutexGuard<'_, States>) {
        let newest = states.revision;
        drop(states);
        self.inner.revision.send_if_modified(|revision| {
            let newer = newest > *revision;
            *revision = newest.max(*revision);
            newer
        });
    }

    /// A panic while the lock was held costs one report at most.
    fn lock(&self) -> MutexGuard<'_, States> {
        self.inner.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl States {
    fn put(&mut self, uid: Uid, report: wire::SandboxReport) {
        self.revision += 1;
        if let Some((before, _)) = self.by_uid.insert(uid, (self.revision, report)) {
            self.changes.remove(&before);
        }
        self.changes.insert(self.revision, uid);
    }

    fn forget_old_graves(&mut self) {
        let gone = |(_, report): &(u64, wire::SandboxReport)| report.phase() == wire::Phase::Deleting;
        let graves = self.by_uid.values().filter(|entry| gone(entry)).count();
        let oldest = self.changes.iter().map(|(revision, uid)| (*revision, *uid));
        let old: Vec<_> = oldest
            .filter(|(_, uid)| self.by_uid.get(uid).is_some_and(gone))
            .take(graves.saturating_sub(MAX_GONE))
            .collect();
        for (revision, uid) in old {
            self.changes.remove(&revision);
            self.by_uid.remove(&uid);
        }
    }
}

/// At a character's border.
fn cut(message: &mut String) {
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES)
            .rev()
            .find(|n| message.is_char_boundary(*n));
        message.truncate(end.unwrap_or(0));
        message.push_str("...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Phase;

    fn report(uid: u64, phase: Phase) -> wire::SandboxReport {
        wire::SandboxReport {
            sandbox_id: format!("s{uid}"),
            uid,
            phase: phase.into(),
            ..Default::default()
        }
    }

    fn told(reports: &[wire::SandboxReport]) -> Vec<(u64, Phase)> {
        reports.iter().map(|r| (r.uid, r.phase())).collect()
    }

    #[tokio::test]
    async fn many_changes_of_one_sandbox_are_told_once_each_as_it_is_now() {
        let reports = Reports::default();
        reports.set(report(1, Phase::Scheduled));
        let (inventory, mut seen) = reports.inventory();
        assert_eq!(told(&inventory), [(1, Phase::Scheduled)]);
        reports.set(report(1, Phase::Running));
        reports.set(report(2, Phase::Scheduled));
        reports.set(report(1, Phase::Failed));
        let changed = reports.changed(&mut seen).await;
        assert_eq!(told(&changed), [(2, Phase::Scheduled), (1, Phase::Failed)]);
        reports.set(report(1, Phase::Failed));
        let none = tokio::time::timeout(std::time::Duration::from_millis(10), reports.changed(&mut seen));
        assert!(none.await.is_err(), "nothing has changed");
    }

    #[tokio::test]
    async fn gone_sandbox_is_told_each_time_that_it_is_asked_for() {
        let reports = Reports::default();
        let (_, mut seen) = reports.inventory();
        for _ in 0..2 {
            reports.gone(Uid(5), "s5");
            assert_eq!(told(&reports.changed(&mut seen).await), [(5, Phase::Deleting)]);
        }
        let (inventory, _) = reports.inventory();
        assert_eq!(told(&inventory), [(5, Phase::Deleting)]);
    }

    #[tokio::test]
    async fn old_graves_are_forgotten_and_messages_are_bounded() {
        let reports = Reports::default();
        let (_, mut seen) = reports.inventory();
        reports.set(report(1, Phase::Running));
        for uid in 2..=MAX_GONE as u64 + 3 {
            reports.gone(Uid(uid), "s");
        }
        let (inventory, _) = reports.inventory();
        assert_eq!(inventory.len(), MAX_GONE + 1);
        assert_eq!(reports.changed(&mut seen).await.len(), MAX_PER_MESSAGE);
    }

    #[test]
    fn long_message_is_cut_at_a_character() {
        let reports = Reports::default();
        let message = "ü".repeat(MAX_MESSAGE_BYTES);
        reports.set(wire::SandboxReport {
            message,
            ..report(1, Phase::Failed)
        });
        let (inventory, _) = reports.inventory();
        assert_eq!(inventory[0].message.len(), MAX_MESSAGE_BYTES + 3);
    }
}

//! The state machine: applies committed entries to the state, builds and installs snapshots of it.
//!
//! The only writer of [`Replicated`]. What a command does is [`crate::state`]'s, what is on disk is
//! [`super::stored`]'s; which entries are committed is openraft's, which is the only caller.
//!
//! A quorum may hold an entry before this replica's own log does. Such an entry is applied, shown and answered at
//! once, but written to the database only behind the log: after a crash openraft starts from a state that its log
//! reaches, and applies the rest again.

use super::checks::Checks;
use super::database::Run;
use super::error::StoreError;
use super::group_commit::SyncProgress;
use super::incoming::Inbox;
use super::replicated::Replicated;
use super::snapshot::{Snapshot, SnapshotFiles};
use super::stored::{Stored, index};
use super::types::{Answers, LogId, Payload, Proposal, SnapshotMeta, StoredMembership, TypeConfig};
use crate::state::{Level, level};
use futures::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Entries are written in runs: one write for many entries of a backlog, and answers don't wait long.
const RUN_ENTRIES: usize = 64;
/// A run ends before that as well, in bytes: what a write takes from the memtable at once.
const RUN_BYTES: usize = 1 << 20;

/// The replicated state of this replica, in memory and on disk.
#[derive(Debug)]
pub struct StateStore {
    stored: Arc<Stored>,
    checks: Checks,
    position: SnapshotMeta,
    log: SyncProgress,
    /// What this version can apply.
    level: Level,
    /// Applied and shown, and not written yet: the log's own sync of it is under way. The oldest first; at most
    /// what the log has in flight.
    unwritten: VecDeque<Unwritten>,
}

/// Writes that wait for the log.
#[derive(Debug)]
struct Unwritten {
    run: Run,
    position: SnapshotMeta,
    /// Appends that must be durable before.
    appends: u64,
}

/// Builds one snapshot, of the state as of the moment it gets to it.
#[derive(Debug)]
pub struct SnapshotBuilder {
    stored: Arc<Stored>,
}

impl StateStore {
    /// Opens the state below `data_dir` and loads it, or begins an empty one. It is written behind `log`, never
    /// before. What goes beyond `level` is neither loaded nor applied.
    pub fn open(data_dir: &Path, log: SyncProgress, level: Level) -> Result<Self, StoreError> {
        let (stored, position) = Stored::open(data_dir, level)?;
        let stored = Arc::new(stored);
        Ok(Self {
            stored,
            checks: Checks::default(),
            position,
            log,
            level,
            unwritten: VecDeque::new(),
        })
    }

    /// What readers of this replica see.
    #[must_use]
    pub fn replicated(&self) -> Arc<Replicated> {
        self.stored.replicated().clone()
    }

    /// Where snapshots from other replicas arrive.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        self.stored.inbox().clone()
    }

    /// What this replica sums of its state where it is asked to.
    pub(super) fn checks(&self) -> Checks {
        self.checks.clone()
    }

    #[cfg(test)]
    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Applies an entry to the state in memory; its answers. The writes are added to the run.
    fn apply_entry(&mut self, log_id: LogId, payload: Payload, run: &mut Run) -> Result<Answers, StoreError> {
        if let Payload::Normal(Proposal(batch)) = &payload {
            level::check_batch(self.level, log_id.index, batch)?;
        }
        let replicated = self.stored.replicated();
        self.position.last_log_id = Some(log_id);
        match payload {
            Payload::Blank => replicated.skip(log_id.index),
            Payload::Membership(membership) => {
                self.position.last_membership = StoredMembership::new(Some(log_id), membership);
                replicated.skip(log_id.index);
            }
            Payload::Normal(Proposal(batch)) => {
                let applied = replicated.apply(log_id.leader_id.term, log_id.index, batch);
                run.add(applied.writes);
                if !applied.checks.is_empty() {
                    let state = replicated.read().clone();
                    self.checks.begin(applied.checks, log_id.index, state);
                }
                return Ok(Answers(applied.answers));
            }
        }
        Ok(Answers::default())
    }

    /// Ends a run: tells who waits for an index and for answers. A quorum's logs hold what is answered; the
    /// database only spares a restart from applying it again, and follows.
    fn finish(&mut self, run: Run, answers: Vec<(ApplyResponder<TypeConfig>, Answers)>) {
        self.stored.replicated().announce(index(&self.position));
        for (responder, answer) in answers {
            responder.send(answer);
        }
        self.unwritten.push_back(Unwritten {
            run,
            position: self.position.clone(),
            appends: self.log.written(),
        });
    }

    /// Writes all that was applied so far, as soon as the log has it; what a checkpoint is taken of then.
    pub(super) async fn settle(&mut self) -> Result<Arc<Stored>, StoreError> {
        if let Some(last) = self.unwritten.back() {
            self.log.until_synced(last.appends).await;
        }
        self.write_behind()?;
        Ok(self.stored.clone())
    }

    /// Writes, in order, the runs whose entries are durable in the log.
    fn write_behind(&mut self) -> Result<(), StoreError> {
        let synced = self.log.synced();
        let database = self.stored.database();
        while self.unwritten.front().is_some_and(|next| next.appends <= synced) {
            if let Some(next) = self.unwritten.pop_front() {
                database.write(next.run, &next.position)?;
            }
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateStore {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.position.last_log_id, self.position.last_membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let (mut run, mut answers, mut pending) = (Run::default(), Vec::new(), 0);
        while let Some((entry, responder)) = entries.try_next().await? {
            let answer = self.apply_entry(entry.log_id, entry.payload, &mut run)?;
            answers.extend(responder.map(|responder| (responder, answer)));
            pending += 1;
            if pending >= RUN_ENTRIES || run.size() >= RUN_BYTES {
                self.finish(std::mem::take(&mut run), std::mem::take(&mut answers));
                self.write_behind()?;
                pending = 0;
            }
        }
        if pending > 0 {
            self.finish(run, answers);
        }
        Ok(self.write_behind()?)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            stored: self.stored.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFiles,
    ) -> Result<(), io::Error> {
        // Older than the snapshot, and of a database that goes with its installation.
        self.unwritten.clear();
        let promised = meta.clone();
        self.position = blocking(&self.stored, move |stored| stored.install(&promised, &snapshot)).await?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.stored.snapshot();
        Ok(snapshot.map(SnapshotFiles::into_snapshot))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let built = blocking(&self.stored, Stored::build).await?;
        Ok(built.into_snapshot())
    }
}

/// Disk work, off the async threads.
async fn blocking<T: Send + 'static>(
    stored: &Arc<Stored>,
    work: impl FnOnce(&Stored) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let there = stored.clone();
    match tokio::task::spawn_blocking(move || work(&there)).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Cancelled {
                dir: stored.snapshots(),
            }),
        },
    }
}

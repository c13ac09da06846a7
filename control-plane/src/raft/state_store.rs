//! The state machine: applies committed entries to the state, builds and installs snapshots of it.
//!
//! Owns the databases and snapshots of `<data folder>/state` and is the only writer of [`Replicated`]. What a
//! command does is [`crate::state`]'s; which entries are committed is openraft's, which is the only caller.

use super::database::{self, Database, Run};
use super::durable::{self, OwnedDir};
use super::error::StoreError;
use super::incoming::Inbox;
use super::replicated::Replicated;
use super::snapshot::{self, Snapshot, SnapshotFiles};
use super::state_dir::StateDir;
use super::types::{Answers, LogId, Payload, Proposal, SnapshotMeta, StoredMembership, TypeConfig};
use futures::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use proto::wire;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries are written in runs: one write for many entries of a backlog, and answers don't wait long.
const RUN_ENTRIES: usize = 64;
/// A run ends before that as well, in bytes: what a write takes from the memtable at once.
const RUN_BYTES: usize = 1 << 20;

/// The replicated state of this replica, in memory and on disk.
#[derive(Debug)]
pub struct StateStore {
    stored: Arc<Stored>,
    position: SnapshotMeta,
}

/// What the store shares with the builder of a snapshot, which runs beside it.
#[derive(Debug)]
struct Stored {
    dir: StateDir,
    inbox: Inbox,
    replicated: Arc<Replicated>,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    database: Arc<Database>,
    snapshot: Option<SnapshotFiles>,
}

/// Builds one snapshot, of the state as of the moment it gets to it.
#[derive(Debug)]
pub struct SnapshotBuilder {
    stored: Arc<Stored>,
}

impl StateStore {
    /// Opens the state below `data_dir` and loads it, or begins an empty one.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let dir = StateDir::open(data_dir.join("state"))?;
        let inbox = dir.inbox()?;
        let snapshot = dir.newest_snapshot()?;
        let database = match dir.current()? {
            Some(number) => Database::open(OwnedDir::kept(dir.database(number)))?,
            None => {
                let number = dir.new_number();
                let database = Database::create(OwnedDir::kept(dir.database(number)))?;
                dir.point_to(number)?;
                database
            }
        };
        let position = database.position()?;
        let replicated = Replicated::new(database.load()?, index(&position));
        let current = Mutex::new(Current {
            database: Arc::new(database),
            snapshot,
        });
        let stored = Arc::new(Stored {
            dir,
            inbox,
            replicated: Arc::new(replicated),
            current,
        });
        Ok(Self { stored, position })
    }

    /// What readers of this replica see.
    #[must_use]
    pub fn replicated(&self) -> Arc<Replicated> {
        self.stored.replicated.clone()
    }

    /// Where snapshots from other replicas arrive.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        self.stored.inbox.clone()
    }

    /// Applies an entry to the state in memory; its answers. The writes are added to the run.
    fn apply_entry(&mut self, log_id: LogId, payload: Payload, run: &mut Run) -> Answers {
        let replicated = &self.stored.replicated;
        self.position.last_log_id = Some(log_id);
        match payload {
            Payload::Blank => replicated.skip(log_id.index),
            Payload::Membership(membership) => {
                self.position.last_membership = StoredMembership::new(Some(log_id), membership);
                replicated.skip(log_id.index);
            }
            Payload::Normal(Proposal(batch)) => {
                let applied = replicated.apply(log_id.leader_id.term, log_id.index, &batch);
                run.add(applied.writes);
                return Answers(applied.answers);
            }
        }
        Answers::default()
    }

    /// Writes a run, then tells who waits: for an index, and for answers.
    fn finish(
        &self,
        run: Run,
        answers: Vec<(ApplyResponder<TypeConfig>, Answers)>,
    ) -> Result<(), StoreError> {
        let database = self.stored.current().database.clone();
        database.write(run, &self.position)?;
        self.stored.replicated.announce(index(&self.position));
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }
}

/// 0 before the first entry.
fn index(position: &SnapshotMeta) -> u64 {
    position.last_log_id.map_or(0, |id| id.index)
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
            let answer = self.apply_entry(entry.log_id, entry.payload, &mut run);
            answers.extend(responder.map(|responder| (responder, answer)));
            pending += 1;
            if pending >= RUN_ENTRIES || run.size() >= RUN_BYTES {
                self.finish(std::mem::take(&mut run), std::mem::take(&mut answers))?;
                pending = 0;
            }
        }
        if pending > 0 {
            self.finish(run, answers)?;
        }
        Ok(())
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
        let promised = meta.clone();
        self.position = blocking(&self.stored, move |stored| stored.install(&promised, &snapshot)).await?;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.stored.current().snapshot.clone();
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
                dir: stored.dir.snapshots(),
            }),
        },
    }
}

impl Stored {
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A checkpoint, summed and sealed. Entries are applied meanwhile; which it still holds, it says itself.
    fn build(&self) -> Result<SnapshotFiles, StoreError> {
        let database = self.current().database.clone();
        let dir = OwnedDir::temporary(self.dir.snapshot(self.dir.new_number()));
        durable::create_dir(dir.path())?;
        let files = snapshot::files_dir(dir.path());
        database.checkpoint(&files)?;
        let names = durable::names(&files)?;
        let scratch = self.dir.scratch()?;
        let meta = database::position_of(&files, scratch.path())?;
        let position = super::codec::position(&meta);
        let manifest = wire::SnapshotManifest {
            last_log_id: position.last_log_id,
            last_membership: position.last_membership,
            files: names
                .iter()
                .map(|name| snapshot::measure(&files, name))
                .collect::<Result<_, _>>()?,
        };
        let built = self.seal(dir, manifest)?;
        self.offer(&built);
        Ok(built)
    }

    /// Completes a snapshot in a folder of ours. From here on a start finds it.
    fn seal(&self, dir: OwnedDir, manifest: wire::SnapshotManifest) -> Result<SnapshotFiles, StoreError> {
        let sealed = SnapshotFiles::seal(dir, manifest)?;
        durable::sync_dir(&self.dir.snapshots())?;
        Ok(sealed)
    }

    /// Makes it the current snapshot unless that goes further: one may have been installed meanwhile.
    fn offer(&self, snapshot: &SnapshotFiles) {
        let mut current = self.current();
        let goes_further = |s: &SnapshotFiles| s.meta().last_log_id > snapshot.meta().last_log_id;
        if current.snapshot.as_ref().is_some_and(goes_further) {
            snapshot.retire();
        } else if let Some(old) = current.snapshot.replace(snapshot.clone())
            && old.dir() != snapshot.dir()
        {
            old.retire();
        }
    }

    /// Puts a snapshot in the place of the state. Each step is durable before the next, and a crash after any
    /// leaves a store that opens: with the old state up to the renaming of `CURRENT`, where openraft finds the
    /// newer snapshot and installs it again, and with the new one from there on.
    fn install(&self, promised: &SnapshotMeta, snapshot: &SnapshotFiles) -> Result<SnapshotMeta, StoreError> {
        let own = self.adopt(snapshot)?;
        let number = self.dir.new_number();
        let prepared = self.prepare(number, &own, promised).inspect_err(|_| {
            if own.dir() != snapshot.dir() {
                own.retire();
            }
        });
        let (database, position, state) = prepared?;
        self.dir.point_to(number)?;
        database.dir().keep();
        let old = std::mem::replace(&mut self.current().database, Arc::new(database));
        old.dir().retire();
        self.offer(&own);
        let term = position.last_log_id.map_or(0, |id| id.leader_id.term);
        self.replicated.reset(state, term, index(&position));
        Ok(position)
    }

    /// The snapshot in a folder of ours: itself where it is that already, else linked, or copied from another
    /// file system.
    fn adopt(&self, snapshot: &SnapshotFiles) -> Result<SnapshotFiles, StoreError> {
        if snapshot.dir().parent() == Some(&self.dir.snapshots()) {
            return Ok(snapshot.clone());
        }
        let dir = OwnedDir::temporary(self.dir.snapshot(self.dir.new_number()));
        let files = snapshot::files_dir(dir.path());
        durable::create_dir(dir.path())?;
        durable::create_dir(&files)?;
        for file in &snapshot.manifest().files {
            let from = snapshot::files_dir(snapshot.dir()).join(&file.name);
            link_or_copy(&from, &files.join(&file.name))?;
        }
        self.seal(dir, snapshot.manifest().clone())
    }

    /// A database of the snapshot's files, loaded. Temporary until it is kept.
    fn prepare(
        &self,
        number: u64,
        own: &SnapshotFiles,
        promised: &SnapshotMeta,
    ) -> Result<(Database, SnapshotMeta, crate::state::State), StoreError> {
        let dir = OwnedDir::temporary(self.dir.database(number));
        durable::create_dir(dir.path())?;
        for file in &own.manifest().files {
            let from = snapshot::files_dir(own.dir()).join(&file.name);
            let to = dir.path().join(&file.name);
            // Tables are never changed; the other files belong to the database that writes them.
            if file.name.ends_with(".sst") {
                link_or_copy(&from, &to)?;
            } else {
                copy(&from, &to)?;
            }
        }
        durable::sync_dir(dir.path())?;
        let database = Database::open(dir)?;
        let position = database.position()?;
        if position != *promised {
            return Err(StoreError::OtherSnapshot {
                dir: own.dir().to_owned(),
                found: format!("{position}"),
                promised: format!("{promised}"),
            });
        }
        let state = database.load()?;
        Ok((database, position, state))
    }
}

fn link_or_copy(from: &Path, to: &PathBuf) -> Result<(), StoreError> {
    match fs::hard_link(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => copy(from, to),
        other => Ok(other.map_err(durable::failed("link", from))?),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::copy(from, to).map_err(durable::failed("copy", from))?;
    Ok(durable::sync_file(to)?)
}

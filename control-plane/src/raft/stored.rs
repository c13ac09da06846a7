//! The applied state and its snapshots on disk: which database and which snapshot are in use, building a
//! snapshot of the one and putting another in its place.
//!
//! Owns `<data folder>/state`. Shared by the state machine and the builder of a snapshot, which runs beside it.
//! Everything here blocks on the disk.

use super::codec;
use super::database::{self, Database, Run};
use super::durable::{self, OwnedDir};
use super::error::StoreError;
use super::incoming::Inbox;
use super::replicated::Replicated;
use super::snapshot::{self, SnapshotFiles};
use super::state_dir::StateDir;
use super::types::SnapshotMeta;
use crate::state::{Level, State, Write};
use proto::wire;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(super) struct Stored {
    dir: StateDir,
    inbox: Inbox,
    replicated: Arc<Replicated>,
    current: Mutex<Current>,
    /// What this version can apply.
    level: Level,
}

#[derive(Debug)]
struct Current {
    database: Arc<Database>,
    snapshot: Option<SnapshotFiles>,
}

/// A snapshot that is ready to take the place of the state.
pub(super) struct Prepared {
    number: u64,
    database: Database,
    position: SnapshotMeta,
    state: State,
}

/// 0 before the first entry.
pub(super) fn index(position: &SnapshotMeta) -> u64 {
    position.last_log_id.map_or(0, |id| id.index)
}

impl Stored {
    /// Opens and loads what is there, or begins an empty state. How far it goes comes with it.
    pub(super) fn open(data_dir: &Path, level: Level) -> Result<(Self, SnapshotMeta), StoreError> {
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
        let replicated = Replicated::new(database.load(level)?, index(&position));
        let current = Mutex::new(Current {
            database: Arc::new(database),
            snapshot,
        });
        let stored = Self {
            dir,
            inbox,
            replicated: Arc::new(replicated),
            current,
            level,
        };
        Ok((stored, position))
    }

    pub(super) fn replicated(&self) -> &Arc<Replicated> {
        &self.replicated
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// The database in use.
    pub(super) fn database(&self) -> Arc<Database> {
        self.current().database.clone()
    }

    /// The newest snapshot.
    pub(super) fn snapshot(&self) -> Option<SnapshotFiles> {
        self.current().snapshot.clone()
    }

    /// Where snapshots are kept.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.dir.snapshots()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A snapshot of now, which becomes the current one.
    pub(super) fn build(&self) -> Result<SnapshotFiles, StoreError> {
        let built = self.checkpoint()?;
        self.offer(&built);
        // Who has come so far needs nobody else's.
        self.inbox.clear()?;
        Ok(built)
    }

    /// A snapshot of now for a backup: it goes with its last clone.
    pub(super) fn capture(&self) -> Result<SnapshotFiles, StoreError> {
        let captured = self.checkpoint()?;
        captured.retire();
        Ok(captured)
    }

    /// A checkpoint, summed and sealed. Entries are applied meanwhile; which it still holds, it says itself.
    fn checkpoint(&self) -> Result<SnapshotFiles, StoreError> {
        let database = self.database();
        let dir = OwnedDir::temporary(self.dir.snapshot(self.dir.new_number()));
        durable::create_dir(dir.path())?;
        let files = snapshot::files_dir(dir.path());
        database.checkpoint(&files)?;
        let names = durable::names(&files)?;
        let scratch = self.dir.scratch()?;
        let meta = database::position_of(&files, scratch.path())?;
        let position = codec::position(&meta);
        let manifest = wire::SnapshotManifest {
            last_log_id: position.last_log_id,
            last_membership: position.last_membership,
            files: names
                .iter()
                .map(|name| snapshot::measure(&files, name))
                .collect::<Result<_, _>>()?,
        };
        self.seal(dir, manifest)
    }

    /// Puts a snapshot of another cluster in the place of the state, with what `change` writes over its records, and
    /// builds the first snapshot of this one. For a store that nobody uses yet.
    pub(super) fn found<E: From<StoreError>>(
        &self,
        snapshot: &SnapshotFiles,
        change: impl FnOnce(&State) -> Result<(Vec<Write>, SnapshotMeta), E>,
    ) -> Result<SnapshotMeta, E> {
        let Prepared {
            number,
            database,
            state,
            ..
        } = self.prepare(snapshot, snapshot.meta())?;
        let (writes, position) = change(&state)?;
        let mut run = Run::default();
        run.add(writes);
        database.write(run, &position)?;
        database.dir().keep();
        self.dir.point_to(number)?;
        let old = std::mem::replace(&mut self.current().database, Arc::new(database));
        old.dir().retire();
        self.build()?;
        Ok(position)
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
    pub(super) fn install(
        &self,
        promised: &SnapshotMeta,
        snapshot: &SnapshotFiles,
    ) -> Result<SnapshotMeta, StoreError> {
        let own = self.adopt(snapshot)?;
        let prepared = self.prepare(&own, promised).inspect_err(|_| {
            if own.dir() != snapshot.dir() {
                own.retire();
            }
        });
        let Prepared {
            number,
            database,
            position,
            state,
        } = prepared?;
        database.dir().keep();
        self.dir.point_to(number)?;
        let old = std::mem::replace(&mut self.current().database, Arc::new(database));
        old.dir().retire();
        self.offer(&own);
        self.replicated.reset(state, index(&position));
        Ok(position)
    }

    /// The snapshot in a folder of ours: itself where it is that already, else linked, or copied from another
    /// file system.
    pub(super) fn adopt(&self, snapshot: &SnapshotFiles) -> Result<SnapshotFiles, StoreError> {
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

    /// A database of the snapshot's files, loaded; removed again unless it is kept.
    pub(super) fn prepare(
        &self,
        own: &SnapshotFiles,
        promised: &SnapshotMeta,
    ) -> Result<Prepared, StoreError> {
        let number = self.dir.new_number();
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
        let state = database.load(self.level)?;
        Ok(Prepared {
            number,
            database,
            position,
            state,
        })
    }
}

#[cfg(test)]
impl Stored {
    /// Stops after the database is complete, or after it is the one in use: as a crash would.
    pub(super) fn crash_with(&self, prepared: Prepared, pointed: bool) -> Result<(), StoreError> {
        prepared.database.dir().keep();
        if pointed {
            self.dir.point_to(prepared.number)?;
        }
        Ok(())
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

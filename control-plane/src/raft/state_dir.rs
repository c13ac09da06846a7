//! Where the state's databases and snapshots are on disk, and which of them count.
//!
//! ```text
//! <data folder>/state/CURRENT            the database in use: "db-7"
//! <data folder>/state/db-7/              RocksDB
//! <data folder>/state/snapshots/8/       see super::snapshot; the newest complete one counts
//! <data folder>/state/incoming/          see super::incoming
//! ```
//!
//! Folders are numbered and never reused. A new database takes effect by the renaming of `CURRENT`, a snapshot
//! by its manifest; what a crash has left unfinished is removed at the next start.

use super::durable::{self, OwnedDir, failed};
use super::error::StoreError;
use super::incoming::Inbox;
use super::snapshot::SnapshotFiles;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

const CURRENT: &str = "CURRENT";
const DATABASE: &str = "db-";

#[derive(Debug)]
pub(super) struct StateDir {
    root: PathBuf,
    next: AtomicU64,
}

impl StateDir {
    /// Makes the folder, removes what is unfinished or superseded.
    pub(super) fn open(root: PathBuf) -> Result<Self, StoreError> {
        durable::create_dir(&root)?;
        let dir = Self {
            root,
            next: AtomicU64::new(1),
        };
        durable::create_dir(&dir.snapshots())?;
        let current = dir.current()?;
        for name in durable::names(&dir.root)? {
            if let Some(number) = database_number(&name) {
                dir.seen(number);
                if current != Some(number) {
                    durable::remove_dir(&dir.root.join(name))?;
                }
            }
        }
        Ok(dir)
    }

    /// The number in `CURRENT`; `None` before the first database is complete.
    pub(super) fn current(&self) -> Result<Option<u64>, StoreError> {
        let path = self.root.join(CURRENT);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("read", &path)(e).into()),
        };
        database_number(text.trim_end())
            .map(Some)
            .ok_or(StoreError::Pointer { path, text })
    }

    /// From now on, and after a crash, this database is the one.
    pub(super) fn point_to(&self, number: u64) -> Result<(), StoreError> {
        let text = format!("{DATABASE}{number}\n");
        Ok(durable::replace(&self.root.join(CURRENT), text.as_bytes())?)
    }

    /// The newest complete snapshot; all others are removed.
    pub(super) fn newest_snapshot(&self) -> Result<Option<SnapshotFiles>, StoreError> {
        let mut numbers: Vec<u64> = durable::names(&self.snapshots())?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        numbers.sort_unstable();
        let mut newest: Option<SnapshotFiles> = None;
        for number in numbers.into_iter().rev() {
            self.seen(number);
            let dir = self.snapshot(number);
            if newest.is_none() {
                match SnapshotFiles::open(dir.clone()) {
                    Ok(found) => {
                        newest = Some(found);
                        continue;
                    }
                    // Unfinished, or damaged: the log or the leader has what it held.
                    Err(e) => tracing::warn!("snapshot {number} is not used: {e}"),
                }
            }
            durable::remove_dir(&dir)?;
        }
        Ok(newest)
    }

    pub(super) fn inbox(&self) -> Result<Inbox, StoreError> {
        Ok(Inbox::open(&self.root.join("incoming"))?)
    }

    /// A number that no folder has or had.
    pub(super) fn new_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn database(&self, number: u64) -> PathBuf {
        self.root.join(format!("{DATABASE}{number}"))
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(super) fn snapshot(&self, number: u64) -> PathBuf {
        self.snapshots().join(number.to_string())
    }

    /// A folder for what nobody needs afterwards.
    pub(super) fn scratch(&self) -> Result<OwnedDir, StoreError> {
        let path = self
            .root
            .join("incoming")
            .join(format!("scratch-{}", self.new_number()));
        let dir = OwnedDir::temporary(path);
        durable::create_dir(dir.path())?;
        Ok(dir)
    }

    fn seen(&self, number: u64) {
        self.next.fetch_max(number + 1, Ordering::Relaxed);
    }
}

fn database_number(name: &str) -> Option<u64> {
    name.strip_prefix(DATABASE)?.parse().ok()
}

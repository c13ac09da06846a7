//! A snapshot on its way in from another replica: written file by file, checked, and only then a snapshot.
//!
//! Owns the folder `incoming`; what is unfinished there is removed with its [`Incoming`], or at the next start.
//! Blocks on the disk; memory is the caller's piece and nothing more.

use super::durable::{self, OwnedDir, failed};
use super::snapshot::{self, Snapshot, SnapshotError, SnapshotFiles};
use super::types::SnapshotMeta;
use proto::wire;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where snapshots from other replicas arrive. Clones share it; each transfer has a folder of its own.
#[derive(Debug, Clone)]
pub struct Inbox {
    dir: PathBuf,
    next: Arc<AtomicU64>,
}

impl Inbox {
    /// Empties `dir`: nothing in it outlives the process.
    pub(super) fn open(dir: &Path) -> Result<Self, SnapshotError> {
        durable::remove_dir(dir)?;
        durable::create_dir(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            next: Arc::default(),
        })
    }

    /// Begins a transfer; the files then come in the manifest's order.
    pub fn begin(&self, manifest: wire::SnapshotManifest) -> Result<Incoming, SnapshotError> {
        let meta = snapshot::check(&manifest)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut incoming = Incoming {
            dir: OwnedDir::temporary(self.dir.join(number.to_string())),
            manifest,
            meta,
            file: 0,
            open: None,
        };
        durable::create_dir(&incoming.files())?;
        incoming.skip_empty()?;
        Ok(incoming)
    }
}

/// One transfer. Dropped before it is finished, it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    dir: OwnedDir,
    manifest: wire::SnapshotManifest,
    meta: SnapshotMeta,
    /// The file that is written next, by its number in the manifest.
    file: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    written: u64,
    hasher: crc32fast::Hasher,
}

impl Incoming {
    fn files(&self) -> PathBuf {
        snapshot::files_dir(self.dir.path())
    }

    /// What this snapshot will cover.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Writes the next piece: of file number `file`, at byte `offset`. Pieces come in order and don't span
    /// files; a file is checked as soon as its last byte is there.
    pub fn write(&mut self, file: u32, offset: u64, piece: &[u8]) -> Result<(), SnapshotError> {
        let position = self.open.as_ref().map_or(0, |open| open.written);
        if (file, offset) != (self.file, position) {
            return Err(SnapshotError::OutOfOrder {
                file,
                offset,
                next: self.file,
                position,
            });
        }
        let entry = snapshot::entry(&self.manifest, file)?;
        let end = offset + piece.len() as u64;
        if end > entry.len {
            snapshot::check_length(entry, end)?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::create(self.files().join(&entry.name))?,
        };
        open.write(piece)?;
        if open.written < entry.len {
            self.open = Some(open);
            return Ok(());
        }
        let computed = open.close()?;
        snapshot::check_sum(entry, computed)?;
        self.file += 1;
        self.skip_empty()
    }

    /// Files without a byte get no piece.
    fn skip_empty(&mut self) -> Result<(), SnapshotError> {
        while let Ok(entry) = snapshot::entry(&self.manifest, self.file)
            && entry.len == 0
        {
            let computed = Open::create(self.files().join(&entry.name))?.close()?;
            snapshot::check_sum(entry, computed)?;
            self.file += 1;
        }
        Ok(())
    }

    /// All files are there and right: a snapshot that can be installed. Its folder goes with its last clone,
    /// installing makes the files the store's own.
    pub fn finish(self) -> Result<Snapshot, SnapshotError> {
        if let Ok(entry) = snapshot::entry(&self.manifest, self.file) {
            let written = self.open.as_ref().map_or(0, |open| open.written);
            snapshot::check_length(entry, written)?;
        }
        durable::sync_dir(&self.files())?;
        Ok(SnapshotFiles::new(self.dir, self.manifest, self.meta).into_snapshot())
    }
}

impl Open {
    fn create(path: PathBuf) -> Result<Self, SnapshotError> {
        let file = File::create_new(&path).map_err(failed("create", &path))?;
        Ok(Self {
            path,
            file,
            written: 0,
            hasher: crc32fast::Hasher::new(),
        })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all(piece).map_err(failed("write", &self.path))?;
        self.hasher.update(piece);
        self.written += piece.len() as u64;
        Ok(())
    }

    /// Makes it durable; the checksum of what was written.
    fn close(self) -> Result<u32, SnapshotError> {
        self.file.sync_all().map_err(failed("sync", &self.path))?;
        Ok(self.hasher.finalize())
    }
}

//! A snapshot on its way in from another replica: written file by file, checked, and only then a snapshot. One that has
//! broken off is gone on with, also after a crash.
//!
//! ```text
//! incoming/from-3/files/...     unfinished, from replica 3: kept for the next attempt
//! incoming/8/files/...          whole, until it is installed; or a backup that is being restored
//! ```
//!
//! What is kept is trusted as far as its checksums go: a file that is whole must have that of the manifest, and of one that
//! is not the sender compares what there is with its own. Tables of RocksDB never change and keep their names, so that
//! they serve a newer snapshot of the same replica too. Kept is what one sender has sent, and no longer than until this
//! replica has a snapshot of its own.
//!
//! Owns the folder `incoming`. Blocks on the disk; memory is the caller's piece and nothing more.

use super::durable::{self, OwnedDir, failed};
use super::snapshot::{self, Snapshot, SnapshotError, SnapshotFiles};
use super::types::SnapshotMeta;
use proto::wire;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What the name of a kept folder begins with; the sender's number follows.
const KEPT: &str = "from-";

/// Where snapshots from other replicas arrive. Clones share it.
#[derive(Debug, Clone)]
pub struct Inbox {
    dir: PathBuf,
    next: Arc<AtomicU64>,
    kept: Arc<Mutex<Kept>>,
}

/// What is unfinished.
#[derive(Debug, Default)]
struct Kept {
    /// Of the transfer that may write to it: a later one takes its place.
    holder: Weak<()>,
    /// What was there when a sender asked last, by file name: bytes and their checksum.
    measured: BTreeMap<String, (u64, u32)>,
}

impl Inbox {
    /// Removes from `dir` what can't be gone on with.
    pub(super) fn open(dir: &Path) -> Result<Self, SnapshotError> {
        durable::create_dir(dir)?;
        for name in durable::names(dir)? {
            if !name.starts_with(KEPT) {
                durable::remove_dir(&dir.join(name))?;
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            next: Arc::default(),
            kept: Arc::default(),
        })
    }

    /// Begins a transfer in a folder of its own, which goes with it; the files come in the manifest's order.
    pub fn begin(&self, manifest: wire::SnapshotManifest) -> Result<Incoming, SnapshotError> {
        let meta = snapshot::check(&manifest)?;
        let begun = vec![Begun::default(); manifest.files.len()];
        let dir = OwnedDir::temporary(self.new_folder());
        Incoming::start(dir, manifest, meta, begun, None)
    }

    /// What of a snapshot of this replica is here already, by file: all of it, or how much from its begin. A transfer that
    /// still goes on ends with that.
    pub(super) fn held(
        &self,
        sender: u64,
        manifest: &wire::SnapshotManifest,
    ) -> Result<Vec<wire::HeldFile>, SnapshotError> {
        snapshot::check(manifest)?;
        let mut kept = self.kept();
        *kept = Kept::default();
        let own = kept_name(sender);
        for name in durable::names(&self.dir)? {
            if name.starts_with(KEPT) && name != own {
                durable::remove_dir(&self.dir.join(name))?;
            }
        }
        let files = snapshot::files_dir(&self.dir.join(own));
        if !files.is_dir() {
            return Ok(Vec::new());
        }
        let mut held = Vec::new();
        for name in durable::names(&files)? {
            let wanted = (0..).zip(&manifest.files).find(|(_, file)| file.name == name);
            let there = snapshot::measure(&files, &name)?;
            match wanted {
                Some((file, wanted)) if there == *wanted || there.len < wanted.len => {
                    kept.measured.insert(name, (there.len, there.crc32));
                    held.push(wire::HeldFile {
                        file,
                        bytes: there.len,
                        crc32: there.crc32,
                    });
                }
                Some(_) | None => remove_file(&files.join(name))?,
            }
        }
        Ok(held)
    }

    /// Goes on with a transfer from this replica, with each file `from` this byte; empty: from the begin of all. The files
    /// come in the manifest's order. Breaks it off, what has arrived is kept.
    pub(super) fn go_on(
        &self,
        sender: u64,
        manifest: wire::SnapshotManifest,
        from: &[u64],
    ) -> Result<Incoming, SnapshotError> {
        let meta = snapshot::check(&manifest)?;
        let mut kept = self.kept();
        let dir = self.dir.join(kept_name(sender));
        if from.is_empty() {
            *kept = Kept::default();
            durable::remove_dir(&dir)?;
        }
        let files = snapshot::files_dir(&dir);
        let mut begun = Vec::new();
        for (n, file) in manifest.files.iter().enumerate() {
            let bytes = from.get(n).copied().unwrap_or_default();
            begun.push(match kept.measured.get(&file.name) {
                Some(&(there, crc32)) if bytes > 0 && bytes == there => Begun { bytes, crc32 },
                Some(_) | None if bytes == 0 => {
                    remove_file(&files.join(&file.name))?;
                    Begun::default()
                }
                Some(_) | None => {
                    let name = file.name.clone();
                    return Err(SnapshotError::NotHeld { name, bytes });
                }
            });
        }
        let lease = Arc::new(());
        kept.holder = Arc::downgrade(&lease);
        let taking = Taking {
            inbox: self.clone(),
            lease,
        };
        Incoming::start(OwnedDir::kept(dir), manifest, meta, begun, Some(taking))
    }

    /// Removes what is kept, unless a transfer goes on: this replica needs none of it.
    pub(super) fn clear(&self) -> Result<(), SnapshotError> {
        let mut kept = self.kept();
        if kept.holder.strong_count() > 0 {
            return Ok(());
        }
        *kept = Kept::default();
        for name in durable::names(&self.dir)? {
            if name.starts_with(KEPT) {
                durable::remove_dir(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    fn new_folder(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(number.to_string())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kept_name(sender: u64) -> String {
    format!("{KEPT}{sender}")
}

/// That it isn't there is fine.
fn remove_file(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e).into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// One transfer. Dropped before it is finished, it leaves what the next one goes on with, or nothing.
#[derive(Debug)]
pub struct Incoming {
    dir: OwnedDir,
    manifest: wire::SnapshotManifest,
    meta: SnapshotMeta,
    /// What of each file was there before.
    begun: Vec<Begun>,
    /// The file that is written next, by its number in the manifest.
    file: u32,
    open: Option<Open>,
    /// `None`: its folder is its own.
    taking: Option<Taking>,
}

/// The first bytes of a file.
#[derive(Debug, Clone, Copy, Default)]
struct Begun {
    bytes: u64,
    crc32: u32,
}

/// The right to write to what is kept.
#[derive(Debug)]
struct Taking {
    inbox: Inbox,
    lease: Arc<()>,
}

impl Taking {
    /// While it is held, no other transfer takes over.
    fn hold(&self) -> Result<MutexGuard<'_, Kept>, SnapshotError> {
        let kept = self.inbox.kept();
        if kept.holder.ptr_eq(&Arc::downgrade(&self.lease)) {
            Ok(kept)
        } else {
            Err(SnapshotError::Superseded)
        }
    }
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
    written: u64,
    hasher: crc32fast::Hasher,
}

impl Incoming {
    fn start(
        dir: OwnedDir,
        manifest: wire::SnapshotManifest,
        meta: SnapshotMeta,
        begun: Vec<Begun>,
        taking: Option<Taking>,
    ) -> Result<Self, SnapshotError> {
        let mut incoming = Self {
            dir,
            manifest,
            meta,
            begun,
            file: 0,
            open: None,
            taking,
        };
        durable::create_dir(&incoming.files())?;
        incoming.skip_whole()?;
        Ok(incoming)
    }

    fn files(&self) -> PathBuf {
        snapshot::files_dir(self.dir.path())
    }

    fn begun(&self) -> Begun {
        let begun = usize::try_from(self.file)
            .ok()
            .and_then(|file| self.begun.get(file));
        begun.copied().unwrap_or_default()
    }

    /// What this snapshot will cover.
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Writes the next piece: of file number `file`, at byte `offset`. Pieces come in order and don't span
    /// files; a file is checked as soon as its last byte is there.
    pub fn write(&mut self, file: u32, offset: u64, piece: &[u8]) -> Result<(), SnapshotError> {
        let taking = self.taking.take();
        let written = {
            let _held = taking.as_ref().map(Taking::hold).transpose()?;
            self.write_held(file, offset, piece)
        };
        self.taking = taking;
        written
    }

    fn write_held(&mut self, file: u32, offset: u64, piece: &[u8]) -> Result<(), SnapshotError> {
        let begun = self.begun();
        let position = self.open.as_ref().map_or(begun.bytes, |open| open.written);
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
            None => Open::at(self.files().join(&entry.name), begun)?,
        };
        open.write(piece)?;
        if open.written < entry.len {
            self.open = Some(open);
            return Ok(());
        }
        let computed = open.close()?;
        snapshot::check_sum(entry, computed)?;
        self.file += 1;
        self.skip_whole()
    }

    /// Files without a byte get no piece, nor do those that are there already.
    fn skip_whole(&mut self) -> Result<(), SnapshotError> {
        while let Ok(entry) = snapshot::entry(&self.manifest, self.file)
            && entry.len == self.begun().bytes
        {
            let open = Open::at(self.files().join(&entry.name), self.begun())?;
            snapshot::check_sum(entry, open.close()?)?;
            self.file += 1;
        }
        Ok(())
    }

    /// All files are there and right: a snapshot that can be installed. Its folder goes with its last clone,
    /// installing makes the files the store's own.
    pub fn finish(self) -> Result<Snapshot, SnapshotError> {
        if let Ok(entry) = snapshot::entry(&self.manifest, self.file) {
            let written = self.open.as_ref().map_or(self.begun().bytes, |open| open.written);
            snapshot::check_length(entry, written)?;
        }
        durable::sync_dir(&self.files())?;
        let dir = match &self.taking {
            None => self.dir,
            Some(taking) => {
                let _held = taking.hold()?;
                let whole = taking.inbox.new_folder();
                durable::rename(self.dir.path(), &whole)?;
                OwnedDir::temporary(whole)
            }
        };
        Ok(SnapshotFiles::new(dir, self.manifest, self.meta).into_snapshot())
    }
}

impl Open {
    /// The file with its first bytes alone, which are there.
    fn at(path: PathBuf, begun: Begun) -> Result<Self, SnapshotError> {
        let opened = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .and_then(|mut file| {
                file.set_len(begun.bytes)?;
                file.seek(SeekFrom::End(0))?;
                Ok(file)
            });
        Ok(Self {
            file: opened.map_err(failed("open", &path))?,
            path,
            written: begun.bytes,
            hasher: crc32fast::Hasher::new_with_initial_len(begun.crc32, begun.bytes),
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

//! A snapshot on disk: a folder of immutable files and a sealed manifest that names, measures and sums them.
//!
//! ```text
//! snapshots/<number>/snapshot     the manifest (protobuf, sealed); a folder without it is no snapshot
//! snapshots/<number>/files/...    a RocksDB checkpoint
//! ```
//!
//! Owns what a complete snapshot is and how it is read; [`super::incoming`] receives one from another
//! replica, [`super::state_store`] builds and installs them. Never holds more than a buffer in memory.
//! Everything here blocks on the disk: call it off the async threads.

use super::codec::{self, CodecError};
use super::durable::{self, FileError, OwnedDir, failed};
use super::types::{SnapshotMeta, TypeConfig};
use proto::wire;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A snapshot as openraft hands it around: what it covers, and its files.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFiles>;

/// The manifest's file name, and the key under which it is sealed.
const MANIFEST: &str = "snapshot";
const FILES: &str = "files";

/// Reading for a checksum: large enough that system calls don't matter, small beside everything else.
const BUFFER: usize = 256 << 10;
/// A checkpoint has one file per few MiB of state; more than this is not one of ours.
pub const MAX_FILES: usize = 65_536;
/// RocksDB's names are at most about 20 bytes.
const MAX_NAME: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("read the manifest of snapshot {}: {source}", dir.display())]
    Manifest { dir: PathBuf, source: CodecError },
    #[error("a snapshot's manifest: {source}")]
    Content { source: CodecError },
    #[error("a snapshot of {count} files; at most {MAX_FILES} are taken")]
    TooManyFiles { count: usize },
    #[error("a snapshot's file name `{name}` is not allowed or not unique")]
    Name { name: String },
    #[error("snapshot file {name}: {len} bytes instead of {expected}")]
    Length { name: String, len: u64, expected: u64 },
    #[error("snapshot file {name}: checksum {computed:08x} instead of {expected:08x}")]
    Checksum {
        name: String,
        computed: u32,
        expected: u32,
    },
    #[error("a piece for file {file} at byte {offset}, where file {next} at byte {position} is next")]
    OutOfOrder {
        file: u32,
        offset: u64,
        next: u32,
        position: u64,
    },
    #[error("the snapshot has no file {file}")]
    NoSuchFile { file: u32 },
    #[error("snapshot file {name} was to go on from byte {bytes}, which is not how far it has come")]
    NotHeld { name: String, bytes: u64 },
    #[error("another transfer has taken the place of this one")]
    Superseded,
}

/// A complete snapshot. Clones share it; one that was superseded or only received is removed from the disk
/// when its last clone is dropped, so that a transfer in progress never loses its files.
#[derive(Debug, Clone)]
pub struct SnapshotFiles(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    dir: OwnedDir,
    manifest: wire::SnapshotManifest,
    meta: SnapshotMeta,
}

impl SnapshotFiles {
    /// Opens a snapshot that was completed in `dir`; every file must be there with its length.
    pub(super) fn open(dir: PathBuf) -> Result<Self, SnapshotError> {
        let path = dir.join(MANIFEST);
        let sealed = fs::read(&path).map_err(failed("read", &path))?;
        let manifest =
            codec::open_message("snapshot manifest", MANIFEST.as_bytes(), &sealed).map_err(|source| {
                SnapshotError::Manifest {
                    dir: dir.clone(),
                    source,
                }
            })?;
        let meta = check(&manifest)?;
        for file in &manifest.files {
            let path = dir.join(FILES).join(&file.name);
            let len = fs::metadata(&path).map_err(failed("look at", &path))?.len();
            check_length(file, len)?;
        }
        Ok(Self::new(OwnedDir::kept(dir), manifest, meta))
    }

    /// Completes the snapshot whose files are in [`files_dir`] of `dir`: they and the manifest are durable
    /// afterwards, but for the name of `dir` itself.
    pub(super) fn seal(dir: OwnedDir, manifest: wire::SnapshotManifest) -> Result<Self, SnapshotError> {
        let meta = check(&manifest)?;
        let files = files_dir(dir.path());
        for file in &manifest.files {
            durable::sync_file(&files.join(&file.name))?;
        }
        durable::sync_dir(&files)?;
        let sealed = codec::seal_message(MANIFEST.as_bytes(), &manifest);
        durable::replace(&dir.path().join(MANIFEST), &sealed)?;
        dir.keep();
        Ok(Self::new(dir, manifest, meta))
    }

    pub(super) fn new(dir: OwnedDir, manifest: wire::SnapshotManifest, meta: SnapshotMeta) -> Self {
        Self(Arc::new(Folder { dir, manifest, meta }))
    }

    /// Its files go with the last clone.
    pub(super) fn retire(&self) {
        self.0.dir.retire();
    }

    pub(super) fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    pub fn meta(&self) -> &SnapshotMeta {
        &self.0.meta
    }

    /// What to send first; the files follow in its order.
    pub fn manifest(&self) -> &wire::SnapshotManifest {
        &self.0.manifest
    }

    /// All bytes of all files.
    pub fn size(&self) -> u64 {
        self.0.manifest.files.iter().map(|file| file.len).sum()
    }

    /// Reads file number `file` of the manifest from byte `offset`, until `buffer` is full or the file ends.
    /// Returns how many bytes were read.
    pub fn read_at(&self, file: u32, offset: u64, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
        let entry = entry(&self.0.manifest, file)?;
        let path = files_dir(self.dir()).join(&entry.name);
        let open = File::open(&path).map_err(failed("open", &path))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match open.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", &path)(e).into()),
            }
        }
        Ok(filled)
    }

    /// From which byte on each file must be sent to a replica that holds these already: it has what was sent before, as far
    /// as that is what is here.
    pub(super) fn lacking(&self, held: &[wire::HeldFile]) -> Result<Vec<u64>, SnapshotError> {
        let mut from = vec![0; self.0.manifest.files.len()];
        for held in held {
            let file = entry(&self.0.manifest, held.file)?;
            let is_same = match held.bytes.cmp(&file.len) {
                std::cmp::Ordering::Equal => held.crc32 == file.crc32,
                std::cmp::Ordering::Less => {
                    let path = files_dir(self.dir()).join(&file.name);
                    sum(&path, held.bytes)? == (held.bytes, held.crc32)
                }
                std::cmp::Ordering::Greater => false,
            };
            if is_same {
                from[held.file as usize] = held.bytes;
            }
        }
        Ok(from)
    }

    /// Together with what it covers, as openraft wants it.
    pub fn into_snapshot(self) -> Snapshot {
        Snapshot {
            meta: self.0.meta.clone(),
            snapshot: self,
        }
    }
}

/// Where the files of the snapshot in `dir` are.
pub(super) fn files_dir(dir: &Path) -> PathBuf {
    dir.join(FILES)
}

pub(super) fn entry(
    manifest: &wire::SnapshotManifest,
    file: u32,
) -> Result<&wire::SnapshotFile, SnapshotError> {
    manifest
        .files
        .get(file as usize)
        .ok_or(SnapshotError::NoSuchFile { file })
}

pub(super) fn check_length(file: &wire::SnapshotFile, len: u64) -> Result<(), SnapshotError> {
    if len == file.len {
        return Ok(());
    }
    Err(SnapshotError::Length {
        name: file.name.clone(),
        len,
        expected: file.len,
    })
}

pub(super) fn check_sum(file: &wire::SnapshotFile, computed: u32) -> Result<(), SnapshotError> {
    if computed == file.crc32 {
        return Ok(());
    }
    Err(SnapshotError::Checksum {
        name: file.name.clone(),
        computed,
        expected: file.crc32,
    })
}

/// Whether a manifest, perhaps sent by another, can be a snapshot of ours; what it covers.
pub(super) fn check(manifest: &wire::SnapshotManifest) -> Result<SnapshotMeta, SnapshotError> {
    let count = manifest.files.len();
    if count > MAX_FILES {
        return Err(SnapshotError::TooManyFiles { count });
    }
    let mut seen = BTreeSet::new();
    for file in &manifest.files {
        if !is_plain(&file.name) || !seen.insert(&file.name) {
            return Err(SnapshotError::Name {
                name: file.name.clone(),
            });
        }
    }
    codec::snapshot_meta_from(manifest).map_err(|source| SnapshotError::Content { source })
}

/// A name that stays within its folder.
fn is_plain(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.bytes().all(allowed)
}

/// Measures and sums a file.
pub(super) fn measure(dir: &Path, name: &str) -> Result<wire::SnapshotFile, SnapshotError> {
    let (len, crc32) = sum(&dir.join(name), u64::MAX)?;
    Ok(wire::SnapshotFile {
        name: name.to_owned(),
        len,
        crc32,
    })
}

/// Sums the first bytes of a file, `most` of them at most; how many those are, and their checksum.
fn sum(path: &Path, most: u64) -> Result<(u64, u32), SnapshotError> {
    let mut file = File::open(path).map_err(failed("open", path))?.take(most);
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let len = file.read(&mut buffer).map_err(failed("read", path))?;
        if len == 0 {
            break;
        }
        hasher.update(&buffer[..len]);
        total += len as u64;
    }
    Ok((total, hasher.finalize()))
}

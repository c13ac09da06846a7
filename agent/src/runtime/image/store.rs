//! The folder of images on disk. What is there is whole: everything is made aside, synced, and then renamed,
//! so that a kill or power cut leaves either all or nothing of it.
//!
//! ```text
//! blobs/<hex>             manifests and configurations, by their digest
//! layers/<hex>/           unpacked layers, by the digest of their plain archive, which is checked
//! references/<hex>.json   which manifest a name stands for; the file's name is the digest of that name
//! incoming/               half made; emptied when the folder is opened
//! lock                    held by the process that uses the folder
//! ```
//!
//! Everything here blocks. Called by [`super`], [`super::pull`] and [`super::import`], never by others.

use super::digest::Digest;
use super::error::ImageError;
use super::members::decompressed;
use super::unpack::{LAYER, UnpackFault, unpack};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Images may hold secrets, and files with setuid: no user of the node has business here.
const PRIVATE: u32 = 0o700;
/// Of a layer's own directory, where its archive does not say.
const LAYER_MODE: u32 = 0o755;

#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    next: AtomicU64,
    _lock: Flock<File>,
}

/// The names that stand for images below `root`, sorted. A record that can't be read is passed over.
///
/// # Errors
/// [`ImageError::Store`]
pub(super) fn references(root: &Path) -> Result<Vec<String>, ImageError> {
    let folder = root.join("references");
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(ImageError::store("list", &folder))?,
    };
    let read = |entry: io::Result<fs::DirEntry>| {
        let bytes = fs::read(entry.ok()?.path()).ok()?;
        let record: ReferenceRecord = serde_json::from_slice(&bytes).ok()?;
        Some(record.reference)
    };
    let mut references: Vec<String> = entries.filter_map(read).collect();
    references.sort_unstable();
    Ok(references)
}

/// Something half made below `incoming/`, removed when dropped.
#[derive(Debug)]
pub(super) struct Incoming(PathBuf);

/// A line of the index: the name and what it stands for.
#[derive(Serialize, Deserialize)]
struct ReferenceRecord {
    reference: String,
    manifest: String,
}

/// Why a layer is not there.
#[derive(Debug)]
pub(super) enum LayerFault {
    Unpack(UnpackFault),
    DiffId { found: Digest },
    Store(ImageError),
}

impl Store {
    /// Opens the folder, makes what is missing and removes what a killed process left half made.
    ///
    /// # Errors
    /// [`ImageError::InUse`] where another process has it, else [`ImageError::Store`].
    pub(super) fn open(root: &Path) -> Result<Self, ImageError> {
        for folder in [
            root.to_owned(),
            root.join("blobs"),
            root.join("layers"),
            root.join("references"),
        ] {
            make_folder(&folder)?;
        }
        let lock = root.join("lock");
        let file = File::create(&lock).map_err(ImageError::store("make", &lock))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| ImageError::InUse {
            path: root.to_owned(),
        })?;
        let incoming = root.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::store("clear", &incoming)(e));
            }
            Ok(()) | Err(_) => make_folder(&incoming)?,
        }
        Ok(Self {
            root: root.to_owned(),
            next: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// A name below `incoming/` that nobody else has.
    pub(super) fn incoming(&self) -> Incoming {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Incoming(self.root.join("incoming").join(number.to_string()))
    }

    pub(super) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// Whether the layer is there; it is whole then.
    pub(super) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer(diff_id).is_dir()
    }

    /// The content of a blob; `None` where it is not there or damaged.
    pub(super) fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blob_path(digest)).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// # Errors
    /// [`ImageError::Store`].
    pub(super) fn put_blob(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        self.put(&self.blob_path(&digest), bytes)?;
        Ok(digest)
    }

    /// The manifest that `reference` stands for, if any.
    pub(super) fn resolve(&self, reference: &str) -> Option<Digest> {
        let bytes = fs::read(self.reference_path(reference)).ok()?;
        let record: ReferenceRecord = serde_json::from_slice(&bytes).ok()?;
        Digest::parse(&record.manifest)
            .ok()
            .filter(|_| record.reference == reference)
    }

    /// # Errors
    /// [`ImageError::Store`].
    pub(super) fn set_reference(&self, reference: &str, manifest: &Digest) -> Result<(), ImageError> {
        let record = ReferenceRecord {
            reference: reference.to_owned(),
            manifest: manifest.to_string(),
        };
        let path = self.reference_path(reference);
        let bytes = serde_json::to_vec(&record).map_err(|e| ImageError::store("write", &path)(e.into()))?;
        self.put(&path, &bytes)
    }

    /// Unpacks the archive in the file `blob`, compressed or not, as the layer `diff_id`.
    ///
    /// # Errors
    /// [`LayerFault`]; nothing of the layer is left then.
    pub(super) fn add_layer(&self, blob: &Path, diff_id: &Digest) -> Result<(), LayerFault> {
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let half = self.incoming();
        let store = |act, path: &Path| {
            let fail = ImageError::store(act, path);
            move |e: io::Error| LayerFault::Store(fail(e))
        };
        DirBuilder::new()
            .mode(PRIVATE)
            .create(half.path())
            .map_err(store("make", half.path()))?;
        fs::set_permissions(half.path(), fs::Permissions::from_mode(LAYER_MODE))
            .map_err(store("make", half.path()))?;
        let file = File::open(blob).map_err(store("open", blob))?;
        let plain = decompressed(file).map_err(store("read", blob))?;
        let mut hashing = Hashing {
            reader: plain,
            hasher: Sha256::new(),
        };
        unpack(&mut hashing, half.path(), LAYER).map_err(LayerFault::Unpack)?;
        let found = Digest::from(hashing.hasher);
        if found != *diff_id {
            return Err(LayerFault::DiffId { found });
        }
        let folder = File::open(half.path()).map_err(store("open", half.path()))?;
        nix::unistd::syncfs(&folder).map_err(|e| store("sync", half.path())(e.into()))?;
        let target = self.layer(diff_id);
        match fs::rename(half.path(), &target) {
            Ok(()) => {}
            // Another pull of the same layer was quicker; the archive's digest says that it is the same.
            Err(_) if target.is_dir() => {}
            Err(e) => return Err(store("rename to", &target)(e)),
        }
        self.sync_folder("layers").map_err(LayerFault::Store)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    fn reference_path(&self, reference: &str) -> PathBuf {
        self.root
            .join("references")
            .join(format!("{}.json", Digest::of(reference.as_bytes()).hex()))
    }

    /// Writes a whole file at once: aside, synced, renamed, the rename synced.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let half = self.incoming();
        let write = || {
            let mut file = File::create(half.path())?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(half.path(), path)?;
            File::open(path.parent().unwrap_or(&self.root))?.sync_all()
        };
        write().map_err(ImageError::store("write", path))
    }

    fn sync_folder(&self, name: &str) -> Result<(), ImageError> {
        let path = self.root.join(name);
        File::open(&path)
            .and_then(|f| f.sync_all())
            .map_err(ImageError::store("sync", &path))
    }
}

fn make_folder(path: &Path) -> Result<(), ImageError> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE)
        .create(path)
        .map_err(ImageError::store("make", path))
}

impl Incoming {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let removed = match fs::symlink_metadata(&self.0) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&self.0),
            Ok(_) => fs::remove_file(&self.0),
            // Renamed to where it belongs, or never made.
            Err(_) => Ok(()),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove what was half made; the next start does");
        }
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    reader: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

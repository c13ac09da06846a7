//! The folder of images on disk. What is there is whole: everything is made aside, synced, and then renamed,
//! so that a kill or power cut leaves either all or nothing of it.
//!
//! ```text
//! blobs/<hex>             manifests and configurations, by their digest
//! layers/<hex>/           unpacked layers, by the digest of their plain archive, which is checked
//! recipes/<hex>           what of a layer's archive its files don't tell, so that it can be exported
//! references/<hex>.json   which manifest a name stands for; the file's name is the digest of that name
//! incoming/               half made; emptied when the folder is opened
//! socket                  where that process serves it to others
//! lock                    held by the process that uses the folder
//! ```
//!
//! What no reference leads to is garbage, unless somebody has claimed it: who brings an image claims its layers before
//! it looks for them, until its reference is there. A reference's file has the time of its last use as its own.
//!
//! Everything here blocks. Called by [`super`], [`super::pull`], [`super::import`], [`super::collect`] and
//! [`super::export`], never by others.

use super::digest::Digest;
use super::error::ImageError;
use super::members::decompressed;
use super::recipe::RecipeWriter;
use super::unpack::{LAYER, UnpackFault, unpack};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Images may hold secrets, and files with setuid: no user of the node has business here.
const PRIVATE: u32 = 0o700;
/// Of a layer's own directory, where its archive does not say.
const LAYER_MODE: u32 = 0o755;

#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    next: AtomicU64,
    /// How often each layer is claimed. Held by who collects, and by who makes or reads what it might collect.
    claims: Mutex<HashMap<Digest, usize>>,
    _lock: Flock<File>,
}

/// While it lives, its layers are not collected.
#[derive(Debug)]
pub(super) struct Claim {
    store: Arc<Store>,
    layers: Vec<Digest>,
}

/// While it lives, nothing is collected, and nothing new is led to.
pub(super) struct Steady<'a>(MutexGuard<'a, HashMap<Digest, usize>>);

/// Where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Registry,
    Archive,
}

/// A name and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) manifest: Digest,
    pub(super) used: SystemTime,
    pub(super) is_imported: bool,
}

/// Something half made below `incoming/`, removed when dropped.
#[derive(Debug)]
pub(super) struct Incoming(PathBuf);

/// A line of the index: the name and what it stands for.
#[derive(Serialize, Deserialize)]
struct ReferenceRecord {
    reference: String,
    manifest: String,
    /// From an archive.
    #[serde(default)]
    imported: bool,
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
            root.join("recipes"),
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
            claims: Mutex::default(),
            _lock: lock,
        })
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps `layers`, whether they are there or are yet to come.
    pub(super) fn claim(self: &Arc<Self>, layers: &[Digest]) -> Claim {
        let mut claims = self.steady().0;
        for layer in layers {
            *claims.entry(layer.clone()).or_default() += 1;
        }
        Claim {
            store: self.clone(),
            layers: layers.to_vec(),
        }
    }

    /// Must not be held by a thread that claims, drops a claim, or publishes.
    pub(super) fn steady(&self) -> Steady<'_> {
        Steady(self.claims.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets `reference` lead to an image whose layers are there, and claimed.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub(super) fn publish(
        &self,
        reference: &str,
        manifest: &[u8],
        config: &[u8],
        claim: Claim,
        origin: Origin,
    ) -> Result<Digest, ImageError> {
        let steady = self.steady();
        self.put_blob(config)?;
        let digest = self.put_blob(manifest)?;
        // Last, because it says that all the others are there.
        self.set_reference(reference, &digest, origin)?;
        drop(steady);
        drop(claim);
        Ok(digest)
    }

    /// A name below `incoming/` that nobody else has.
    pub(super) fn incoming(&self) -> Incoming {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Incoming(self.root.join("incoming").join(number.to_string()))
    }

    pub(super) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    /// How the layer's archive is made again from the layer.
    pub(super) fn recipe(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("recipes").join(diff_id.hex())
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

    fn put_blob(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
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

    fn set_reference(&self, reference: &str, manifest: &Digest, origin: Origin) -> Result<(), ImageError> {
        let record = ReferenceRecord {
            reference: reference.to_owned(),
            manifest: manifest.to_string(),
            imported: origin == Origin::Archive,
        };
        let path = self.reference_path(reference);
        let bytes = serde_json::to_vec(&record).map_err(|e| ImageError::store("write", &path)(e.into()))?;
        self.put(&path, &bytes)
    }

    /// All references, by name. Those that can't be read lead nowhere and are left out.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub(super) fn references(&self) -> Result<Vec<Reference>, ImageError> {
        let folder = self.root.join("references");
        let mut references = Vec::new();
        for path in entries(&folder)? {
            let read = || -> io::Result<Reference> {
                let record: ReferenceRecord = serde_json::from_slice(&fs::read(&path)?)?;
                Ok(Reference {
                    manifest: Digest::parse(&record.manifest).map_err(io::Error::other)?,
                    name: record.reference,
                    used: fs::metadata(&path)?.modified()?,
                    is_imported: record.imported,
                })
            };
            match read() {
                Ok(reference) if self.reference_path(&reference.name) == path => references.push(reference),
                Ok(_) => tracing::warn!(path = %path.display(), "a reference has the name of another"),
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot read a reference"),
            }
        }
        references.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(references)
    }

    /// Notes that `reference` is used now; not synced, as an hour more or less of being unused does no harm.
    pub(super) fn touch(&self, reference: &str) {
        let path = self.reference_path(reference);
        let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::debug!(path = %path.display(), %error, "cannot note the use of an image");
        }
    }

    /// Lets `reference` lead nowhere any more. What it led to is garbage then, unless others lead there.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub(super) fn forget(&self, _: &Steady<'_>, reference: &str) -> Result<(), ImageError> {
        let path = self.reference_path(reference);
        fs::remove_file(&path).map_err(ImageError::store("remove", &path))?;
        // Before anything it leads to may go.
        self.sync_folder("references")
    }

    /// Takes all blobs and layers away that are neither claimed nor wanted. They are removed when what is given is dropped,
    /// or when the folder is opened next.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub(super) fn sweep(
        &self,
        steady: &Steady<'_>,
        is_wanted: impl Fn(&Digest) -> bool,
    ) -> Result<Vec<Incoming>, ImageError> {
        let mut swept = Vec::new();
        for folder in ["blobs", "layers", "recipes"] {
            for path in entries(&self.root.join(folder))? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let digest = Digest::parse(&format!("sha256:{name}"));
                if digest.is_ok_and(|d| is_wanted(&d) || steady.0.contains_key(&d)) {
                    continue;
                }
                let aside = self.incoming();
                fs::rename(&path, aside.path()).map_err(ImageError::store("take away", &path))?;
                swept.push(aside);
            }
        }
        Ok(swept)
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
        let recipe = self.incoming();
        let writer = RecipeWriter::create(recipe.path()).map_err(store("make", recipe.path()))?;
        let writer = unpack(&mut hashing, half.path(), LAYER, writer).map_err(LayerFault::Unpack)?;
        writer.finish().map_err(store("write", recipe.path()))?;
        let found = Digest::from(hashing.hasher);
        if found != *diff_id {
            return Err(LayerFault::DiffId { found });
        }
        let folder = File::open(half.path()).map_err(store("open", half.path()))?;
        nix::unistd::syncfs(&folder).map_err(|e| store("sync", half.path())(e.into()))?;
        // In front of the layer, whose being there says that all is there.
        let target = self.recipe(diff_id);
        fs::rename(recipe.path(), &target).map_err(store("rename to", &target))?;
        self.sync_folder("recipes").map_err(LayerFault::Store)?;
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

/// The paths of what is in a folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let read = || {
        fs::read_dir(folder)?
            .map(|e| Ok(e?.path()))
            .collect::<io::Result<_>>()
    };
    read().map_err(ImageError::store("read", folder))
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.store.steady().0;
        for layer in &self.layers {
            if let Some(count) = claims.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    claims.remove(layer);
                }
            }
        }
    }
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

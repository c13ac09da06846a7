//! The images of a node: pulled from registries or imported from archives, unpacked once, shared by all
//! sandboxes. [`ImageStore`] is all that others see.
//!
//! Owns the folder of images. Never mounts anything, never runs anything. The agent's steps ask it for an
//! image before a sandbox's containers are made.
//!
//! | file | owns |
//! |---|---|
//! | `reference`, `credentials`, `transport` | where an image is asked for, as whom and how |
//! | `registry`, `attempts` | the way there and back, with retries |
//! | `connection`, `download`, `fault` | one place that is asked; one blob, resumed where it broke off |
//! | `wish` | an image that somebody waits for |
//! | `pull`, `progress` | one image's manifest, configuration and layers, and how far they are |
//! | `import`, `export` | images from and to an archive |
//! | `manifest`, `digest` | what the documents say, pure |
//! | `members`, `unpack` | a layer's archive to a directory, safe against its maker |
//! | `recipe` | the way back |
//! | `store` | what is on disk |
//! | `memory`, `usage` | what is known of it, and who uses it |
//! | `collect` | what is removed, and when |
//! | `socket` | all of it for other programs on this node |
//! | `flight` | one piece of work for many callers |

mod attempts;
mod collect;
mod connection;
mod credentials;
mod digest;
mod download;
mod error;
mod export;
mod fault;
mod flight;
mod import;
mod manifest;
mod members;
mod memory;
mod progress;
mod pull;
mod recipe;
mod reference;
mod registry;
mod socket;
mod store;
mod transport;
mod unpack;
mod usage;
mod wish;

pub use collect::{CollectPolicy, Removed};
pub use credentials::{CredentialFault, Credentials};
pub use digest::DigestFault;
pub use error::{EndpointFailure, ImageError, ImportFault};
pub use export::ArchiveFormat;
pub use fault::Fault;
pub use manifest::{ImageConfig, ManifestFault};
pub use members::ArchiveFault;
pub use progress::Progress;
pub use recipe::RecipeFault;
pub use reference::{Mirror, RegistryConfig};
pub use socket::{Listening, SocketError, connect};
pub use transport::{RegistryTransport, Transport};
pub use unpack::UnpackFault;
pub use wish::{Ask, Pull};

use digest::Digest;
use flight::Flights;
use futures::{FutureExt, StreamExt, stream};
use manifest::{Document, read_configuration, read_document};
use memory::Images;
use proto::image::ImageName;
use pull::{Puller, blocking, guarded};
use registry::Registry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use store::Store;
use tokio::sync::watch;
use wish::PullWork;

/// All of a pull, retries counted: what the contract promises.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);
/// Pulling ahead has time, and sandboxes that wait for an image go first.
const PRE_PULLS_AT_ONCE: usize = 2;
/// Before what could not be pulled ahead is tried again; a registry that is down is so for minutes, or for long.
const PRE_PULL_PAUSE: Duration = Duration::from_secs(60);
const PRE_PULL_LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// A disk fills up within minutes, not seconds, and each pull looks for itself.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// An image that is on this node, whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Image {
    /// Fully qualified: `docker.io/library/alpine:3.20`.
    pub reference: String,
    /// `sha256:...` of the manifest for this node's platform.
    pub digest: String,
    /// Unpacked layers, lowest first, each once; at least one.
    pub layers: Vec<PathBuf>,
    pub config: ImageConfig,
}

/// An image as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub reference: String,
    /// `sha256:...` of the manifest for this node's platform.
    pub digest: String,
    pub layers: usize,
    /// On disk, unpacked; what images share is counted for each.
    pub bytes: u64,
    pub used: SystemTime,
    /// By a sandbox: it can't be removed.
    pub in_use: bool,
}

/// The images of this node. Cheap to clone; clones share everything.
///
/// Who holds an [`Arc<Image>`] that it has got from here holds a lease: the image's layers are not collected, whatever
/// becomes of its name. Layers that are mounted are not collected either, so that a lease need not outlive the mount.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    puller: Arc<Puller>,
    images: Mutex<Images>,
    pulls: Flights<Result<Arc<Image>, ImageError>, watch::Receiver<Progress>>,
    policy: CollectPolicy,
}

impl ImageStore {
    /// Opens the folder `root`, made if missing. Blocks for as long as it takes to remove what a killed
    /// process has left half made.
    ///
    /// # Errors
    /// [`ImageError::InUse`] where another process has it open, [`ImageError::Store`] where it can't be made.
    pub fn open(root: impl AsRef<Path>, config: RegistryConfig) -> Result<Self, ImageError> {
        Self::open_with(root, config, CollectPolicy::default())
    }

    /// The same, with a policy of one's own for collecting images.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_with(
        root: impl AsRef<Path>,
        config: RegistryConfig,
        policy: CollectPolicy,
    ) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(root.as_ref())?);
        let puller = Arc::new(Puller::new(store.clone(), Registry::new(config)));
        let mut policy = policy;
        for name in &mut policy.keep {
            *name = ImageName::parse(name).map_err(ImageError::Reference)?.to_string();
        }
        let inner = Inner {
            store,
            puller,
            images: Mutex::default(),
            pulls: Flights::new(),
            policy,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Gives the image, pulling it only where it is not on this node. However many ask at once, it is
    /// pulled once; when none of them waits any more, the pull ends.
    ///
    /// # Errors
    /// [`ImageError`], which names the image, who was asked for it, and what to do.
    pub async fn ensure(&self, image: &str) -> Result<Arc<Image>, ImageError> {
        self.fetch(image, Ask::IfMissing)?.await
    }

    /// The same with a choice, and with a view of how far it is.
    ///
    /// # Errors
    /// [`ImageError::Reference`] at once; all others when it is awaited.
    pub fn fetch(&self, image: &str, ask: Ask) -> Result<Pull, ImageError> {
        let name = ImageName::parse(image).map_err(ImageError::Reference)?;
        let reference = name.to_string();
        if ask == Ask::IfMissing
            && let Some(image) = self.inner.present(&reference)
        {
            return Ok(Pull {
                progress: watch::channel(Progress::default()).1,
                image: PullWork::Present(Some(image)),
            });
        }
        let inner = self.inner.clone();
        // Who asks for what is new does not join who is content with what is there.
        let key = format!("{reference} {ask:?}");
        let start = || {
            let (tell, progress) = watch::channel(Progress::default());
            let work = guarded(reference, inner.provide(name, ask, tell));
            (progress, work.boxed())
        };
        let (progress, work) = self.inner.pulls.join(&key, start);
        Ok(Pull {
            progress,
            image: PullWork::Shared(work),
        })
    }

    /// Brings images to this node ahead of their use, a few at a time. Gives those that did not come.
    pub async fn pre_pull(&self, images: &[String]) -> Vec<(String, ImageError)> {
        let pulls = images.iter().map(|image| async move {
            let pulled = self.ensure(image).await;
            pulled.err().map(|error| (image.clone(), error))
        });
        let pulls: Vec<_> = pulls.collect();
        stream::iter(pulls)
            .buffer_unordered(PRE_PULLS_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// Brings the images to this node that the policy keeps, and tries those again that did not come, with longer and
    /// longer pauses. Returns when all are here.
    pub async fn keep_ahead(&self) {
        let mut pause = PRE_PULL_PAUSE;
        let mut missing = self.inner.policy.keep.clone();
        loop {
            let failed = self.pre_pull(&missing).await;
            for (image, error) in &failed {
                tracing::warn!(image, %error, "not pulled ahead; tried again in {} s", pause.as_secs());
            }
            missing = failed.into_iter().map(|(image, _)| image).collect();
            if missing.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PRE_PULL_LONGEST_PAUSE);
        }
    }

    /// Takes in the images of an archive: an OCI image layout or the work of `docker save`, plain or
    /// compressed. Gives their references. A reference that was there before stands for the new image.
    ///
    /// # Errors
    /// [`ImageError`]; the images in front of a faulty one are taken in.
    pub async fn import(&self, archive: &Path) -> Result<Vec<String>, ImageError> {
        let (inner, path) = (self.inner.clone(), archive.to_owned());
        blocking(archive.display().to_string(), move || {
            let references = import::import(&inner.store, &path)?;
            for reference in &references {
                // Read anew by who asks next.
                inner.images().forget(reference);
            }
            Ok(references)
        })
        .await
    }

    /// Writes images to an archive that others can read, and [`Self::import`]. Their configurations, and thereby what
    /// Docker calls their ids, stay the same; their manifests don't, as layers are written without compression. Gives the
    /// archive's size in bytes. What was at `archive` is replaced once all is written.
    ///
    /// # Errors
    /// [`ImageError::NotHere`], and [`ImageError::Export`] where a layer can't be made again.
    pub async fn export(
        &self,
        images: &[String],
        format: ArchiveFormat,
        archive: &Path,
    ) -> Result<u64, ImageError> {
        // Leases, for as long as it takes.
        let held = self.held_all(images).await?;
        let (inner, path) = (self.inner.clone(), archive.to_owned());
        blocking(archive.display().to_string(), move || {
            export::export(&inner.store, &held, format, &path)
        })
        .await
    }

    /// All images, by name. Adds up the sizes of all files, which takes a while on a cold disk.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub async fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let inner = self.inner.clone();
        blocking("the list of images".to_owned(), move || inner.list()).await
    }

    /// Removes images by name, and what only they needed.
    ///
    /// # Errors
    /// [`ImageError::NotHere`] and [`ImageError::Used`]; then none is removed.
    pub async fn remove(&self, images: &[String]) -> Result<Removed, ImageError> {
        let names = normalised(images)?;
        let inner = self.inner.clone();
        blocking(names.join(", "), move || inner.remove(&names)).await
    }

    /// Removes all images that are not in use and were not used for `unused_for`, except those that the policy keeps.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub async fn prune(&self, unused_for: Duration) -> Result<Removed, ImageError> {
        let inner = self.inner.clone();
        blocking("unused images".to_owned(), move || {
            inner.prune(unused_for, |reference| {
                inner.policy.keep.contains(&reference.name)
            })
        })
        .await
    }

    /// Does now what the policy for collecting says. A pull makes room for itself where the disk is full.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub async fn tidy(&self) -> Result<Removed, ImageError> {
        let inner = self.inner.clone();
        let removed = blocking("unused images".to_owned(), move || inner.tidy(&inner.policy)).await?;
        removed.tell();
        Ok(removed)
    }

    /// Calls [`Self::tidy`] once a minute, for ever.
    pub async fn keep_tidy(&self) {
        let mut turn = tokio::time::interval(TIDY_EVERY);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            if let Err(error) = self.tidy().await {
                tracing::warn!(%error, "cannot collect images");
            }
        }
    }

    /// The images, which must be here.
    async fn held_all(&self, images: &[String]) -> Result<Vec<Arc<Image>>, ImageError> {
        let mut held = Vec::new();
        for image in normalised(images)? {
            let found = self.inner.clone().read(image.clone()).await?;
            held.push(found.ok_or(ImageError::NotHere { image })?);
        }
        Ok(held)
    }
}

fn normalised(images: &[String]) -> Result<Vec<String>, ImageError> {
    let normal = |image: &String| ImageName::parse(image).map(|name| name.to_string());
    images
        .iter()
        .map(normal)
        .collect::<Result<_, _>>()
        .map_err(ImageError::Reference)
}

impl Inner {
    async fn provide(
        self: Arc<Self>,
        name: ImageName,
        ask: Ask,
        progress: watch::Sender<Progress>,
    ) -> Result<Arc<Image>, ImageError> {
        let reference = name.to_string();
        if ask == Ask::IfMissing
            && let Some(image) = self.clone().read(reference.clone()).await?
        {
            return Ok(image);
        }
        tracing::info!(image = reference, "pulling");
        let inner = self.clone();
        // A disk that is full now would fail the pull.
        let room = blocking(reference.clone(), move || inner.make_room(&inner.policy)).await;
        room.map_or_else(
            |error| tracing::warn!(%error, "cannot make room for an image"),
            |removed| removed.tell(),
        );
        let pull = self.puller.clone().pull(name, progress).boxed();
        let digest = tokio::time::timeout(PULL_TIMEOUT, pull)
            .await
            .map_err(|_| ImageError::Timeout {
                image: reference.clone(),
                after: PULL_TIMEOUT,
            })??;
        tracing::info!(image = reference, %digest, "pulled");
        let lost = ImageError::store("find again, though just pulled,", Path::new(&reference));
        self.read(reference)
            .await?
            .ok_or_else(|| lost(std::io::ErrorKind::NotFound.into()))
    }

    /// The image from disk, if it is there and whole.
    async fn read(self: Arc<Self>, reference: String) -> Result<Option<Arc<Image>>, ImageError> {
        blocking(reference.clone(), move || {
            // Nothing is collected between being found and being leased.
            let _steady = self.store.steady();
            let Some(image) = load(&self.store, &reference) else {
                return Ok(None);
            };
            self.store.touch(&reference);
            Ok(Some(self.images().keep(image)))
        })
        .await
    }

    /// The image from memory, unless somebody has removed a layer meanwhile.
    fn present(&self, reference: &str) -> Option<Arc<Image>> {
        let (image, is_noted) = self.images().get(reference)?;
        if !image.layers.iter().all(|layer| layer.is_dir()) {
            return None;
        }
        if !is_noted {
            self.store.touch(reference);
        }
        Some(image)
    }

    fn images(&self) -> MutexGuard<'_, Images> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let usage = self.images().usage()?;
        let mut sizes = std::collections::HashMap::new();
        let listed = self.survey(&usage)?.into_iter().filter_map(|known| {
            let parts = parts(&self.store, &known.reference.manifest)?;
            let mut size = |layer: &Digest| {
                let measure = || collect::size(&self.store.layer(layer));
                *sizes.entry(layer.clone()).or_insert_with(measure)
            };
            Some(Listed {
                digest: known.reference.manifest.to_string(),
                layers: parts.layers.len(),
                bytes: stack(&parts.layers).into_iter().map(&mut size).sum(),
                used: known.reference.used,
                in_use: known.in_use,
                reference: known.reference.name,
            })
        });
        Ok(listed.collect())
    }
}

/// What a manifest in the store leads to.
struct Parts {
    config: Digest,
    image: ImageConfig,
    /// Plain archives' digests, lowest first.
    layers: Vec<Digest>,
}

/// `None` where a document is missing or damaged.
fn parts(store: &Store, manifest: &Digest) -> Option<Parts> {
    let Document::Manifest(manifest) = read_document(&store.blob(manifest)?).ok()? else {
        return None;
    };
    let config = store.blob(&manifest.config.digest)?;
    let read = read_configuration(&config, manifest.layers.len()).ok()?;
    Some(Parts {
        config: manifest.config.digest,
        image: read.config,
        layers: read.diff_ids,
    })
}

/// `None` where a part is missing or damaged: then it is pulled again.
fn load(store: &Store, reference: &str) -> Option<Image> {
    let digest = store.resolve(reference)?;
    let parts = parts(store, &digest)?;
    if !parts.layers.iter().all(|diff_id| store.has_layer(diff_id)) {
        return None;
    }
    Some(Image {
        reference: reference.to_owned(),
        digest: digest.to_string(),
        layers: stack(&parts.layers)
            .into_iter()
            .map(|diff_id| store.layer(diff_id))
            .collect(),
        config: parts.image,
    })
}

/// Each layer once, at its highest place: overlayfs refuses a directory twice, and all that a lower
/// occurrence of it brings or hides, the highest does as well.
fn stack(diff_ids: &[Digest]) -> Vec<&Digest> {
    let again = |(i, diff_id): &(usize, &Digest)| !diff_ids[i + 1..].contains(*diff_id);
    diff_ids
        .iter()
        .enumerate()
        .filter(again)
        .map(|(_, diff_id)| diff_id)
        .collect()
}

#[cfg(test)]
mod tests;

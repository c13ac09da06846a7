//! The images of a node: pulled from registries or imported from archives, unpacked once, shared by all
//! sandboxes. [`ImageStore`] is all that others see.
//!
//! Owns the folder of images. Never mounts anything, never runs anything. The agent's steps ask it for an
//! image before a sandbox's containers are made.
//!
//! | file | owns |
//! |---|---|
//! | `reference` | mirrors and credentials: where an image is asked for |
//! | `registry` | the way there and back, with retries |
//! | `pull` | one image's manifest, configuration and layers |
//! | `import` | the same from an archive |
//! | `manifest`, `digest` | what the documents say, pure |
//! | `members`, `unpack` | a layer's archive to a directory, safe against its maker |
//! | `store` | what is on disk |
//! | `flight` | one piece of work for many callers |

mod digest;
mod error;
mod flight;
mod import;
mod manifest;
mod members;
mod pull;
mod reference;
mod registry;
mod store;
mod unpack;

pub use digest::DigestFault;
pub use error::{EndpointFailure, ImageError, ImportFault};
pub use manifest::{ImageConfig, ManifestFault};
pub use members::ArchiveFault;
pub use reference::{Credentials, Mirror, RegistryConfig};
pub use registry::Fault;
pub use unpack::UnpackFault;

use digest::Digest;
use flight::Flights;
use futures::FutureExt;
use manifest::{Document, read_configuration, read_document};
use proto::image::ImageName;
use pull::{Puller, blocking, guarded};
use registry::Registry;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;

/// All of a pull, retries counted: what the contract promises.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);

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

/// The images of this node. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    puller: Arc<Puller>,
    /// By reference.
    images: Mutex<HashMap<String, Arc<Image>>>,
    pulls: Flights<Result<Arc<Image>, ImageError>>,
}

impl ImageStore {
    /// Opens the folder `root`, made if missing. Blocks for as long as it takes to remove what a killed
    /// process has left half made.
    ///
    /// # Errors
    /// [`ImageError::InUse`] where another process has it open, [`ImageError::Store`] where it can't be made.
    pub fn open(root: impl AsRef<Path>, config: RegistryConfig) -> Result<Self, ImageError> {
        let store = Arc::new(Store::open(root.as_ref())?);
        let puller = Arc::new(Puller::new(store.clone(), Registry::new(config)));
        let inner = Inner {
            store,
            puller,
            images: Mutex::default(),
            pulls: Flights::new(),
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
        let name = ImageName::parse(image).map_err(ImageError::Reference)?;
        let reference = name.to_string();
        if let Some(image) = self.inner.present(&reference) {
            return Ok(image);
        }
        let inner = self.inner.clone();
        let work = || guarded(reference.clone(), inner.provide(name)).boxed();
        self.inner.pulls.join(&reference, work).await
    }

    /// The references of all images in the folder `root`, sorted; also while another process has it open.
    ///
    /// # Errors
    /// [`ImageError::Store`] where the folder can't be listed.
    pub fn list(root: &Path) -> Result<Vec<String>, ImageError> {
        store::references(root)
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
                inner.known().remove(reference);
            }
            Ok(references)
        })
        .await
    }
}

impl Inner {
    async fn provide(self: Arc<Self>, name: ImageName) -> Result<Arc<Image>, ImageError> {
        let reference = name.to_string();
        if let Some(image) = self.clone().read(reference.clone()).await? {
            return Ok(image);
        }
        tracing::info!(image = reference, "pulling");
        let pull = self.puller.clone().pull(name).boxed();
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
            let Some(image) = load(&self.store, &reference) else {
                return Ok(None);
            };
            let image = Arc::new(image);
            self.known().insert(reference, image.clone());
            Ok(Some(image))
        })
        .await
    }

    /// The image from memory, unless somebody has removed a layer meanwhile.
    fn present(&self, reference: &str) -> Option<Arc<Image>> {
        let image = self.known().get(reference).cloned()?;
        image.layers.iter().all(|layer| layer.is_dir()).then_some(image)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Image>>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` where a part is missing or damaged: then it is pulled again.
fn load(store: &Store, reference: &str) -> Option<Image> {
    let digest = store.resolve(reference)?;
    let Document::Manifest(manifest) = read_document(&store.blob(&digest)?).ok()? else {
        return None;
    };
    let config = store.blob(&manifest.config.digest)?;
    let config = read_configuration(&config, manifest.layers.len()).ok()?;
    if !config.diff_ids.iter().all(|diff_id| store.has_layer(diff_id)) {
        return None;
    }
    Some(Image {
        reference: reference.to_owned(),
        digest: digest.to_string(),
        layers: stack(&config.diff_ids)
            .into_iter()
            .map(|diff_id| store.layer(diff_id))
            .collect(),
        config: config.config,
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

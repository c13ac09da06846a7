//! Brings one image from its registry into the store: manifest, configuration, then its layers, several at a time.

use super::digest::Digest;
use super::error::{EndpointFailure, ImageError};
use super::flight::Flights;
use super::manifest::{
    Configuration, Descriptor, Document, Manifest, ManifestFault, read_configuration, read_document,
};
use super::reference::Endpoint;
use super::registry::Registry;
use super::store::{LayerFault, Store};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use proto::image::ImageName;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// Layers downloaded and unpacked at a time, of all images: more only compete for the disk. Docker has 3.
const LAYERS_AT_ONCE: usize = 4;
/// An index may point to an index; nobody goes further.
const MAX_HOPS: usize = 3;

/// What pulls share.
pub(super) struct Puller {
    store: Arc<Store>,
    registry: Registry,
    layers: Flights<Result<(), ImageError>>,
    slots: Semaphore,
}

impl Puller {
    pub(super) fn new(store: Arc<Store>, registry: Registry) -> Self {
        Self {
            store,
            registry,
            layers: Flights::new(),
            slots: Semaphore::new(LAYERS_AT_ONCE),
        }
    }

    /// Pulls `name` and gives the digest of its manifest. All of the image is in the store then, and the
    /// name leads to it.
    ///
    /// # Errors
    /// [`ImageError`]; the layers that were complete by then stay.
    pub(super) async fn pull(self: Arc<Self>, name: ImageName) -> Result<Digest, ImageError> {
        let endpoints = Arc::new(self.registry.endpoints(&name));
        let image = name.to_string();
        let (manifest_bytes, manifest) = self.manifest(&name, &endpoints).await?;
        let config_bytes = self.document(&name, &endpoints, &manifest.config).await?;
        let config = read_configuration(&config_bytes, manifest.layers.len())
            .map_err(|fault| unusable(&image, "its configuration", fault))?;
        self.clone().layers(&name, &endpoints, &manifest, &config).await?;
        let store = self.store.clone();
        blocking(image.clone(), move || {
            store.put_blob(&config_bytes)?;
            let digest = store.put_blob(&manifest_bytes)?;
            // Last, because it says that all the others are there.
            store.set_reference(&image, &digest)?;
            Ok(digest)
        })
        .await
    }

    async fn manifest(
        &self,
        name: &ImageName,
        endpoints: &[Endpoint],
    ) -> Result<(Vec<u8>, Manifest), ImageError> {
        let image = name.to_string();
        let mut asked = name.clone();
        for _ in 0..MAX_HOPS {
            let bytes = self
                .registry
                .manifest(&asked, endpoints)
                .await
                .map_err(|f| failed(&image, f))?;
            match read_document(&bytes).map_err(|fault| unusable(&image, "its manifest", fault))? {
                Document::Manifest(manifest) => return Ok((bytes, manifest)),
                Document::Chosen(entry) => asked.digest = Some(entry.digest.to_string()),
            }
        }
        Err(unusable(&image, "its manifest", ManifestFault::Nested(MAX_HOPS)))
    }

    /// A small blob, in memory.
    async fn document(
        &self,
        name: &ImageName,
        endpoints: &[Endpoint],
        wanted: &Descriptor,
    ) -> Result<Vec<u8>, ImageError> {
        let file = self.store.incoming();
        let image = name.to_string();
        self.registry
            .blob(name, endpoints, wanted, file.path())
            .await
            .map_err(|f| failed(&image, f))?;
        tokio::fs::read(file.path())
            .await
            .map_err(ImageError::store("read", file.path()))
    }

    async fn layers(
        self: Arc<Self>,
        name: &ImageName,
        endpoints: &Arc<Vec<Endpoint>>,
        manifest: &Manifest,
        config: &Configuration,
    ) -> Result<(), ImageError> {
        let layers = manifest
            .layers
            .iter()
            .cloned()
            .zip(config.diff_ids.iter().cloned());
        let pulls = layers
            .filter(|(_, diff_id)| !self.store.has_layer(diff_id))
            .map(|(layer, diff_id)| {
                let (puller, name, endpoints) = (self.clone(), name.clone(), endpoints.clone());
                let key = diff_id.to_string();
                // The same layer of two images is pulled once.
                self.layers.join(&key, move || {
                    puller.layer(name, endpoints, layer, diff_id).boxed()
                })
            });
        let pulls: Vec<_> = pulls.collect();
        stream::iter(pulls)
            .buffer_unordered(LAYERS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn layer(
        self: Arc<Self>,
        name: ImageName,
        endpoints: Arc<Vec<Endpoint>>,
        layer: Descriptor,
        diff_id: Digest,
    ) -> Result<(), ImageError> {
        let image = name.to_string();
        // Never closed.
        let _slot = self.slots.acquire().await;
        let file = self.store.incoming();
        self.registry
            .blob(&name, &endpoints, &layer, file.path())
            .await
            .map_err(|f| failed(&image, f))?;
        let store = self.store.clone();
        blocking(image.clone(), move || {
            store
                .add_layer(file.path(), &diff_id)
                .map_err(|fault| layer_fault(&image, &layer.digest, &diff_id, fault))
        })
        .await
    }
}

/// Runs what blocks on a thread for that.
///
/// # Errors
/// Those of `work`, or [`ImageError::Panic`].
pub(super) async fn blocking<T: Send + 'static>(
    image: String,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ImageError::Panic { image })?
}

/// Runs `work` as a task of its own, ended with this future: a panic in it becomes an error.
///
/// # Errors
/// Those of `work`, or [`ImageError::Panic`].
pub(super) async fn guarded<T: Send + 'static>(
    image: String,
    work: impl Future<Output = Result<T, ImageError>> + Send + 'static,
) -> Result<T, ImageError> {
    AbortOnDropHandle::new(tokio::spawn(work))
        .await
        .map_err(|_| ImageError::Panic { image })?
}

pub(super) fn layer_fault(image: &str, layer: &Digest, promised: &Digest, fault: LayerFault) -> ImageError {
    let (image, layer) = (image.to_owned(), layer.to_string());
    match fault {
        LayerFault::Unpack(fault) => ImageError::Layer {
            image,
            layer,
            fault: Arc::new(fault),
        },
        LayerFault::DiffId { found } => ImageError::DiffId {
            image,
            layer,
            promised: promised.to_string(),
            found: found.to_string(),
        },
        LayerFault::Store(error) => error,
    }
}

fn failed(image: &str, failures: Vec<EndpointFailure>) -> ImageError {
    ImageError::Pull {
        image: image.to_owned(),
        failures,
    }
}

fn unusable(image: &str, document: &str, fault: ManifestFault) -> ImageError {
    ImageError::Manifest {
        image: image.to_owned(),
        document: document.to_owned(),
        fault,
    }
}

//! Brings one image from its registry into the store: manifest, configuration, then its layers, several at a time.

use super::digest::Digest;
use super::error::{EndpointFailure, ImageError};
use super::flight::Flights;
use super::manifest::{
    Configuration, Descriptor, Document, Manifest, ManifestFault, read_configuration, read_document,
};
use super::progress::{Meter, Progress};
use super::reference::Endpoint;
use super::registry::Registry;
use super::store::{LayerFault, Origin, Store};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use proto::image::ImageName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

/// Layers downloaded and unpacked at a time, of all images: more only compete for the disk. Docker has 3.
const LAYERS_AT_ONCE: usize = 4;
/// An index may point to an index; nobody goes further.
const MAX_HOPS: usize = 3;

/// How often who waits is told how far a pull is: faster than a person reads, and slow enough to cost nothing.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// What pulls share.
pub(super) struct Puller {
    store: Arc<Store>,
    registry: Registry,
    layers: Flights<Result<(), ImageError>, Arc<Meter>>,
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
    /// [`ImageError`]; the layers that were complete by then stay, until they are collected.
    pub(super) async fn pull(
        self: Arc<Self>,
        name: ImageName,
        progress: watch::Sender<Progress>,
    ) -> Result<Digest, ImageError> {
        let endpoints = Arc::new(self.registry.endpoints(&name)?);
        let image = name.to_string();
        let (manifest_bytes, manifest) = self.manifest(&name, &endpoints).await?;
        let config_bytes = self.document(&name, &endpoints, &manifest.config).await?;
        let config = read_configuration(&config_bytes, manifest.layers.len())
            .map_err(|fault| unusable(&image, "its configuration", fault))?;
        // From before it is looked whether they are there until the name leads to them.
        let claim = self.store.claim(&config.diff_ids);
        let layers = self
            .clone()
            .layers(&name, &endpoints, &manifest, &config, &progress);
        layers.boxed().await?;
        let store = self.store.clone();
        blocking(image.clone(), move || {
            store.publish(&image, &manifest_bytes, &config_bytes, claim, Origin::Registry)
        })
        .await
    }

    /// As if all tokens had run out.
    #[cfg(test)]
    pub(super) fn spoil_grants(&self) {
        self.registry.spoil_grants();
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
            .blob(name, endpoints, wanted, file.path(), &Meter::default())
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
        progress: &watch::Sender<Progress>,
    ) -> Result<(), ImageError> {
        let layers = manifest.layers.iter().zip(&config.diff_ids);
        let mut tally = Tally::default();
        let mut pulls = Vec::new();
        for (layer, diff_id) in layers {
            tally.all.layers += 1;
            tally.all.bytes += layer.size;
            if self.store.has_layer(diff_id) {
                tally.all.layers_done += 1;
                tally.all.bytes_done += layer.size;
                continue;
            }
            let (puller, name, endpoints) = (self.clone(), name.clone(), endpoints.clone());
            let (layer, diff_id) = (layer.clone(), diff_id.clone());
            let (size, key) = (layer.size, diff_id.to_string());
            // The same layer of two images is pulled once.
            let (meter, pull) = self.layers.join(&key, move || {
                let meter = Arc::new(Meter::default());
                let work = puller.layer(name, endpoints, layer, diff_id, meter.clone());
                (meter, work.boxed())
            });
            tally.meters.push((meter, size));
            pulls.push(pull);
        }
        let all = stream::iter(pulls)
            .buffer_unordered(LAYERS_AT_ONCE)
            .try_collect::<()>();
        tokio::pin!(all);
        let mut tell = tokio::time::interval(TOLD_EVERY);
        loop {
            tokio::select! {
                biased;
                done = &mut all => {
                    progress.send_replace(tally.now());
                    return done;
                }
                _ = tell.tick() => {
                    let now = tally.now();
                    progress.send_if_modified(|told| std::mem::replace(told, now) != now);
                }
            }
        }
    }

    async fn layer(
        self: Arc<Self>,
        name: ImageName,
        endpoints: Arc<Vec<Endpoint>>,
        layer: Descriptor,
        diff_id: Digest,
        meter: Arc<Meter>,
    ) -> Result<(), ImageError> {
        let image = name.to_string();
        // Never closed.
        let _slot = self.slots.acquire().await;
        let file = self.store.incoming();
        self.registry
            .blob(&name, &endpoints, &layer, file.path(), &meter)
            .await
            .map_err(|f| failed(&image, f))?;
        let store = self.store.clone();
        blocking(image.clone(), move || {
            // Also where the waiting ends and this goes on.
            let _claim = store.claim(std::slice::from_ref(&diff_id));
            store
                .add_layer(file.path(), &diff_id)
                .map_err(|fault| layer_fault(&image, &layer.digest, &diff_id, fault))?;
            meter.finish();
            Ok(())
        })
        .await
    }
}

/// What a pull is about to get, and what it had.
#[derive(Default)]
struct Tally {
    /// What is there counts as done.
    all: Progress,
    /// Of what is not there, with its size.
    meters: Vec<(Arc<Meter>, u64)>,
}

impl Tally {
    fn now(&self) -> Progress {
        let mut now = self.all;
        for (meter, size) in &self.meters {
            now.bytes_done += meter.received().min(*size);
            now.layers_done += u64::from(meter.is_finished());
        }
        now
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

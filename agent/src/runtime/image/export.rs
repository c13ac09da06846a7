//! Writes images as one archive: an OCI image layout, or what `docker save` writes. Blocks.
//!
//! Layers are made again from what is unpacked, and must come out with the digests that the images' configurations have;
//! so an image keeps its id. Called by [`super::ImageStore::export`], which holds the images meanwhile.

use super::digest::Digest;
use super::error::ImageError;
use super::import::manifest_of;
use super::manifest::Descriptor;
use super::recipe::{self, RecipeFault};
use super::store::Store;
use super::{Image, parts};
use proto::image::ImageName;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What an archive of images looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout; for podman, skopeo, containerd and Docker since 25.
    Oci,
    /// For any Docker.
    Docker,
}

/// Behind the archive's name until it is whole.
const PARTIAL: &str = ".partial";

/// Writes the archive at `path`, gives its size in bytes.
///
/// # Errors
/// [`ImageError::Export`] and [`ImageError::Store`]; what was at `path` stays then.
pub(super) fn export(
    store: &Store,
    images: &[Arc<Image>],
    format: ArchiveFormat,
    path: &Path,
) -> Result<u64, ImageError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = Partial(PathBuf::from(partial));
    let write = |e| ImageError::store("write", &partial.0)(e);
    let file = File::create(&partial.0).map_err(write)?;
    let mut export = Export {
        store,
        archive: tar::Builder::new(BufWriter::new(file)),
        path: &partial.0,
        written: BTreeSet::new(),
    };
    match format {
        ArchiveFormat::Oci => export.layout(images)?,
        ArchiveFormat::Docker => export.docker(images)?,
    }
    let finish = || -> io::Result<u64> {
        let file = export.archive.into_inner()?.into_inner()?;
        file.sync_all()?;
        fs::rename(&partial.0, path)?;
        Ok(file.metadata()?.len())
    };
    finish().map_err(write)
}

/// Removed when dropped, unless renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Export<'a> {
    store: &'a Store,
    archive: tar::Builder<BufWriter<File>>,
    path: &'a Path,
    /// Images share parts.
    written: BTreeSet<String>,
}

/// An image's parts, as they are written.
struct Written {
    config: Descriptor,
    config_bytes: Vec<u8>,
    /// Plain archives, lowest first.
    layers: Vec<Descriptor>,
}

impl Export<'_> {
    fn layout(&mut self, images: &[Arc<Image>]) -> Result<(), ImageError> {
        self.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut entries = Vec::new();
        for image in images {
            let written = self.image(image, |digest| format!("blobs/sha256/{}", digest.hex()))?;
            let config = format!("blobs/sha256/{}", written.config.digest.hex());
            self.document(&config, &written.config_bytes)?;
            let manifest = manifest_of(&written.config, &written.layers);
            let digest = Digest::of(&manifest);
            self.document(&format!("blobs/sha256/{}", digest.hex()), &manifest)?;
            let name = name(image)?;
            entries.push(json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest.to_string(),
                "size": manifest.len(),
                "annotations": {
                    "io.containerd.image.name": name.to_string(),
                    "org.opencontainers.image.ref.name": name.tag,
                },
            }));
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        self.document("index.json", index.to_string().as_bytes())
    }

    fn docker(&mut self, images: &[Arc<Image>]) -> Result<(), ImageError> {
        // Names of one image in one entry, as Docker has it.
        let mut entries: BTreeMap<Digest, Value> = BTreeMap::new();
        for image in images {
            let layer = |digest: &Digest| format!("{}/layer.tar", digest.hex());
            let written = self.image(image, layer)?;
            let config = format!("{}.json", written.config.digest.hex());
            self.document(&config, &written.config_bytes)?;
            let layers: Vec<String> = written.layers.iter().map(|l| layer(&l.digest)).collect();
            let tag = Value::from(name(image)?.to_string());
            let entry = entries
                .entry(written.config.digest)
                .or_insert_with(|| json!({"Config": config, "RepoTags": [], "Layers": layers}));
            if let Some(tags) = entry["RepoTags"].as_array_mut() {
                tags.push(tag);
            }
        }
        let manifest: Value = entries.into_values().collect();
        self.document("manifest.json", manifest.to_string().as_bytes())
    }

    /// Writes the layers of an image, each where `place` says.
    fn image(&mut self, image: &Image, place: impl Fn(&Digest) -> String) -> Result<Written, ImageError> {
        let gone = || ImageError::NotHere {
            image: image.reference.clone(),
        };
        let manifest = Digest::parse(&image.digest).map_err(|_| gone())?;
        let parts = parts(self.store, &manifest).ok_or_else(gone)?;
        let config_bytes = self.store.blob(&parts.config).ok_or_else(gone)?;
        let mut layers = Vec::new();
        for layer in parts.layers {
            let size = self.layer(image, &layer, &place(&layer))?;
            layers.push(Descriptor { digest: layer, size });
        }
        Ok(Written {
            config: Descriptor {
                digest: parts.config,
                size: config_bytes.len() as u64,
            },
            config_bytes,
            layers,
        })
    }

    fn layer(&mut self, image: &Image, layer: &Digest, place: &str) -> Result<u64, ImageError> {
        let fault = |fault| ImageError::Export {
            image: image.reference.clone(),
            layer: layer.to_string(),
            fault: Arc::new(fault),
        };
        let recipe = self.store.recipe(layer);
        let size = recipe::length(&recipe).map_err(fault)?;
        if !self.written.insert(place.to_owned()) {
            return Ok(size);
        }
        self.header(place, size)?;
        let mut hashing = Hashing {
            out: self.archive.get_mut(),
            hasher: Sha256::new(),
        };
        recipe::rebuild(&recipe, &self.store.layer(layer), &mut hashing).map_err(fault)?;
        if Digest::from(hashing.hasher) != *layer {
            return Err(fault(RecipeFault::Damaged));
        }
        self.pad(size)?;
        Ok(size)
    }

    fn document(&mut self, place: &str, bytes: &[u8]) -> Result<(), ImageError> {
        if !self.written.insert(place.to_owned()) {
            return Ok(());
        }
        let size = bytes.len() as u64;
        self.header(place, size)?;
        let written = self.archive.get_mut().write_all(bytes);
        written.map_err(ImageError::store("write", self.path))?;
        self.pad(size)
    }

    /// The builder's own way of adding a file wants a reader; layers are written.
    fn header(&mut self, place: &str, size: u64) -> Result<(), ImageError> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        let mut write = || {
            // All places are shorter than a header's 100 bytes.
            header.set_path(place)?;
            header.set_cksum();
            self.archive.get_mut().write_all(header.as_bytes())
        };
        write().map_err(ImageError::store("write", self.path))
    }

    /// Members of an archive begin at multiples of its blocks.
    fn pad(&mut self, size: u64) -> Result<(), ImageError> {
        let mut padding = io::repeat(0).take(size.next_multiple_of(512) - size);
        io::copy(&mut padding, self.archive.get_mut())
            .map(|_| ())
            .map_err(ImageError::store("write", self.path))
    }
}

/// As an archive can have it: what is known by its digest alone has another one there.
fn name(image: &Image) -> Result<ImageName, ImageError> {
    let name = ImageName::parse(&image.reference).map_err(ImageError::Reference)?;
    match name.tag {
        Some(_) => Ok(ImageName { digest: None, ..name }),
        None => Err(ImageError::NoTag {
            image: image.reference.clone(),
        }),
    }
}

struct Hashing<W> {
    out: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

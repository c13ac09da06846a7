//! What the JSON documents of an image say. Pure: called with bytes that are verified already.

use super::digest::{Digest, DigestFault};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;

/// Of a manifest or configuration; registries refuse manifests of more than 4 MiB.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// Of all layers of an image, as they are sent; the largest in use have some 20 GB.
const MAX_COMPRESSED: u64 = 32 << 30;
/// overlayfs stacks at most 500; builders stop at 127.
pub(super) const MAX_LAYERS: usize = 128;

/// Why a manifest or configuration can't be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ManifestFault {
    #[error("is not what a registry's specification says: {0}")]
    Json(String),
    #[error("names content badly: {0}")]
    Digest(#[from] DigestFault),
    #[error("is of the long retired schema 1; push the image again with a newer builder")]
    Schema(u32),
    #[error("has nothing for {wanted}, only for: {offered}")]
    Platform { wanted: String, offered: String },
    #[error("is for {found}, but this node is {wanted}")]
    Architecture { found: String, wanted: &'static str },
    #[error("points from one index to another more than {0} times")]
    Nested(usize),
    #[error("has no layers")]
    NoLayers,
    #[error("has {found} layers, at most {MAX_LAYERS} are allowed")]
    TooManyLayers { found: usize },
    #[error("has layers of {0} bytes, at most {MAX_COMPRESSED} are allowed")]
    TooLarge(u64),
    #[error("has {layers} layers, but its configuration speaks of {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("has a configuration of {0} bytes, which is refused")]
    LongConfig(u64),
    #[error("is {0} bytes long, which is refused")]
    LongDocument(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    /// Lowest first.
    pub(super) layers: Vec<Descriptor>,
}

/// What a reference can lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    Manifest(Manifest),
    /// For this node's platform, out of an index.
    Chosen(Descriptor),
}

/// How an image wishes to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `KEY=VALUE` each.
    pub env: Vec<String>,
    /// Empty: `/`.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; empty: root.
    pub user: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Configuration {
    pub(super) config: ImageConfig,
    /// The digest of each layer's plain archive, lowest first.
    pub(super) diff_ids: Vec<Digest>,
}

/// This node's, in the words of OCI.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Reads a manifest, or an index's entry for this platform.
///
/// # Errors
/// [`ManifestFault`] where it is malformed or has nothing for this node.
pub(super) fn read_document(bytes: &[u8]) -> Result<Document, ManifestFault> {
    let raw: RawDocument = json(bytes)?;
    if raw.schema_version != 2 {
        return Err(ManifestFault::Schema(raw.schema_version));
    }
    match (raw.config, raw.manifests) {
        (Some(config), _) => {
            let layers = raw
                .layers
                .into_iter()
                .map(Descriptor::try_from)
                .collect::<Result<Vec<_>, _>>()?;
            let config = Descriptor::try_from(config)?;
            match layers.len() {
                0 => Err(ManifestFault::NoLayers),
                found if found > MAX_LAYERS => Err(ManifestFault::TooManyLayers { found }),
                _ if config.size > MAX_DOCUMENT => Err(ManifestFault::LongConfig(config.size)),
                _ => match layers
                    .iter()
                    .fold(0u64, |sum, layer| sum.saturating_add(layer.size))
                {
                    size if size > MAX_COMPRESSED => Err(ManifestFault::TooLarge(size)),
                    _ => Ok(Document::Manifest(Manifest { config, layers })),
                },
            }
        }
        (None, Some(entries)) => choose(entries).map(Document::Chosen),
        (None, None) => Err(ManifestFault::Json("neither a manifest nor an index".to_owned())),
    }
}

fn choose(entries: Vec<RawDescriptor>) -> Result<Descriptor, ManifestFault> {
    let wanted = architecture();
    let fits = |e: &RawDescriptor| {
        e.platform
            .as_ref()
            .is_some_and(|p| p.os == "linux" && p.architecture == wanted)
    };
    let only_one = entries.len() == 1 && entries.iter().all(|e| e.platform.is_none());
    let offered: BTreeSet<String> = entries
        .iter()
        .filter_map(|e| {
            e.platform
                .as_ref()
                .map(|p| format!("{}/{}", p.os, p.architecture))
        })
        .take(MAX_OFFERED)
        .collect();
    match entries.into_iter().find(|e| only_one || fits(e)) {
        Some(entry) => Ok(entry.try_into()?),
        None => Err(ManifestFault::Platform {
            wanted: format!("linux/{wanted}"),
            offered: offered.into_iter().collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Platforms that an error message lists; more help nobody.
const MAX_OFFERED: usize = 16;

/// Reads an image's configuration and checks it against its manifest.
///
/// # Errors
/// [`ManifestFault`] where it is malformed or not for this node.
pub(super) fn read_configuration(bytes: &[u8], layers: usize) -> Result<Configuration, ManifestFault> {
    let raw: RawConfiguration = json(bytes)?;
    let wanted = architecture();
    let found = format!("{}/{}", raw.os, raw.architecture);
    if ![
        format!("linux/{wanted}"),
        format!("/{wanted}"),
        "linux/".to_owned(),
        "/".to_owned(),
    ]
    .contains(&found)
    {
        return Err(ManifestFault::Architecture { found, wanted });
    }
    if raw.rootfs.diff_ids.len() != layers {
        return Err(ManifestFault::LayerCount {
            layers,
            diff_ids: raw.rootfs.diff_ids.len(),
        });
    }
    let diff_ids = raw
        .rootfs
        .diff_ids
        .iter()
        .map(|d| Digest::parse(d))
        .collect::<Result<_, _>>()?;
    let config = raw.config;
    Ok(Configuration {
        config: ImageConfig {
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            env: config.env,
            working_dir: config.working_dir,
            user: config.user,
        },
        diff_ids,
    })
}

fn json<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, ManifestFault> {
    // The message tells the place, never the content: that may come from anywhere.
    serde_json::from_slice(bytes)
        .map_err(|e| ManifestFault::Json(format!("line {}, column {}", e.line(), e.column())))
}

impl TryFrom<RawDescriptor> for Descriptor {
    type Error = DigestFault;

    fn try_from(raw: RawDescriptor) -> Result<Self, DigestFault> {
        Ok(Self {
            digest: Digest::parse(&raw.digest)?,
            size: raw.size,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    config: Option<RawDescriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<RawDescriptor>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    digest: String,
    size: u64,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct RawConfiguration {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawConfig,
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    user: String,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<String>,
}

/// Builders write `null` for what an image does not have.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

//! What can go wrong with an image, in words for the person who named it.

use super::credentials::CredentialFault;
use super::digest::DigestFault;
use super::fault::Fault;
use super::manifest::ManifestFault;
use super::members::ArchiveFault;
use super::recipe::RecipeFault;
use super::unpack::UnpackFault;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Why there is no image. `Clone`, because one pull has many waiters; the causes are shared.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error("{0}")]
    Reference(String),
    #[error(
        "`{text}` is no mirror: {why}; write REGISTRY=http://HOST[:PORT] or REGISTRY=https://HOST[:PORT]"
    )]
    Mirror { text: String, why: &'static str },
    #[error(
        "`{text}` says nothing of a registry: {why}; write REGISTRY=plain, REGISTRY=unverified or REGISTRY=ca:/PATH"
    )]
    Transport { text: String, why: &'static str },
    #[error("cannot use the credentials of registries in {path}: {fault}")]
    Credentials { path: PathBuf, fault: CredentialFault },
    #[error("cannot pull {image}: {}", tell(.failures))]
    Pull {
        image: String,
        failures: Vec<EndpointFailure>,
    },
    #[error("cannot pull {image}: not done after {} s; check the way to its registry, or use a mirror", .after.as_secs())]
    Timeout { image: String, after: Duration },
    #[error("cannot use {image}: {document} {fault}")]
    Manifest {
        image: String,
        document: String,
        fault: ManifestFault,
    },
    #[error("cannot use {image}: its layer {layer} {fault}")]
    Layer {
        image: String,
        layer: String,
        fault: Arc<UnpackFault>,
    },
    #[error(
        "cannot use {image}: its layer {layer} unpacks to {found}, but its configuration promises {promised}"
    )]
    DiffId {
        image: String,
        layer: String,
        promised: String,
        found: String,
    },
    #[error("cannot import {path}: it {fault}")]
    Archive { path: PathBuf, fault: Arc<ArchiveFault> },
    #[error("cannot import {path}: {fault}")]
    Import { path: PathBuf, fault: ImportFault },
    #[error(
        "cannot export {image}: its layer {layer} cannot be made again: {fault}; pull or import the image anew"
    )]
    Export {
        image: String,
        layer: String,
        fault: Arc<RecipeFault>,
    },
    #[error(
        "cannot export {image}: it has no tag, and in an archive it has another digest; pull it by a tag"
    )]
    NoTag { image: String },
    #[error("{image} is not on this node")]
    NotHere { image: String },
    #[error("cannot remove {image}: a sandbox uses it")]
    Used { image: String },
    #[error("the folder of images {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("cannot {act} {path}: {source}")]
    Store {
        act: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
    #[error("work on {image} ended unexpectedly; this is a fault of sbxlet, see its log")]
    Panic { image: String },
}

impl ImageError {
    /// It is this node that is at fault, such as its disk, and neither the image nor its registry.
    #[must_use]
    pub fn is_of_node(&self) -> bool {
        match self {
            Self::Store { .. } | Self::InUse { .. } | Self::Panic { .. } => true,
            Self::Layer { fault, .. } => fault.is_of_disk(),
            Self::Pull { failures, .. } => failures.iter().all(|failure| failure.fault.is_of_disk()),
            Self::Reference(_)
            | Self::Mirror { .. }
            | Self::Transport { .. }
            | Self::Credentials { .. }
            | Self::Timeout { .. }
            | Self::Manifest { .. }
            | Self::DiffId { .. }
            | Self::Archive { .. }
            | Self::Import { .. }
            | Self::Export { .. }
            | Self::NoTag { .. }
            | Self::NotHere { .. }
            | Self::Used { .. } => false,
        }
    }
}

/// Why one registry or mirror did not give an image.
#[derive(Debug, Clone)]
pub struct EndpointFailure {
    /// As `https://host:port`.
    pub endpoint: String,
    pub fault: Fault,
}

/// What is missing in an archive of images.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImportFault {
    #[error(
        "it is neither an OCI image layout nor the work of docker save: it has no index.json or manifest.json"
    )]
    Format,
    #[error("{document} {fault}")]
    Document { document: String, fault: ManifestFault },
    #[error("it names no image; write one with a tag, as docker save NAME:TAG does")]
    Unnamed,
    #[error("{0}")]
    Name(String),
    #[error("it says that {name} is in it, but what it has has another digest")]
    Pinned { name: String },
    #[error("{part} is missing in it")]
    Missing { part: String },
    #[error("it names content badly: {0}")]
    Digest(#[from] DigestFault),
}

fn tell(failures: &[EndpointFailure]) -> String {
    let tried: Vec<String> = failures
        .iter()
        .map(|f| format!("{}: {}", f.endpoint, f.fault))
        .collect();
    let mut text = tried.join("; ");
    // The last one is the registry itself: what to do follows from its answer.
    if let Some(last) = failures.last() {
        text.push_str("; ");
        text.push_str(last.fault.advice());
    }
    text
}

impl ImageError {
    /// A fault of the folder of images.
    pub(super) fn store(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Store {
            act,
            path,
            source: Arc::new(source),
        }
    }
}

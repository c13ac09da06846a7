//! Builds small OCI images from lists of files, byte for byte the same each time, and brings them to where
//! images are taken from: a registry ([`push`]) or an archive ([`archive`]).
//!
//! Never part of what is shipped: the agent's tests, the tests of this crate and `deploy/quickstart.sh` call it.

mod archive;
mod push;
mod stand_in;

pub use archive::{docker_archive, oci_archive};
pub use push::{PushError, push, push_all};
pub use stand_in::{StandInError, stand_ins};

use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::{self, Write};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image as one would describe it in a Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Within its registry, such as `library/alpine`.
    pub repository: String,
    pub tags: Vec<String>,
    /// Lowest first.
    pub layers: Vec<Layer>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `KEY=VALUE` each.
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
}

#[derive(Debug, Clone, Default)]
pub struct Layer {
    pub compression: Compression,
    /// Parents before what they hold.
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    Plain,
    #[default]
    Gzip,
    Zstd,
}

/// One entry of a layer's tar archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Relative to the root, without a leading `/`.
    pub path: String,
    pub mode: u32,
    /// Of user and group.
    pub owner: (u32, u32),
    pub kind: EntryKind,
}

#[derive(Debug, Clone)]
pub enum EntryKind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    /// To another path of the layer.
    HardLink(String),
}

impl Entry {
    #[must_use]
    pub fn directory(path: &str, mode: u32) -> Self {
        Self::new(path, mode, EntryKind::Directory)
    }

    #[must_use]
    pub fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self::new(path, mode, EntryKind::File(content.into()))
    }

    #[must_use]
    pub fn symlink(path: &str, target: &str) -> Self {
        Self::new(path, 0o777, EntryKind::Symlink(target.to_owned()))
    }

    #[must_use]
    pub fn hard_link(path: &str, target: &str) -> Self {
        Self::new(path, 0o644, EntryKind::HardLink(target.to_owned()))
    }

    #[must_use]
    pub fn owned_by(mut self, user: u32, group: u32) -> Self {
        self.owner = (user, group);
        self
    }

    fn new(path: &str, mode: u32, kind: EntryKind) -> Self {
        Self {
            path: path.to_owned(),
            mode,
            owner: (0, 0),
            kind,
        }
    }
}

/// Bytes with what names them.
#[derive(Debug, Clone)]
pub struct Blob {
    pub media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    #[must_use]
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest(&bytes),
            bytes,
        }
    }

    pub(crate) fn descriptor(&self) -> serde_json::Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image's parts, as a registry keeps them.
#[derive(Debug, Clone)]
pub struct Built {
    pub manifest: Blob,
    pub config: Blob,
    /// Lowest first.
    pub layers: Vec<Blob>,
}

impl Image {
    /// # Errors
    /// Where an entry does not fit in a tar archive, as with a name of a megabyte.
    pub fn build(&self) -> io::Result<Built> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let tar = layer.tar()?;
            diff_ids.push(digest(&tar));
            layers.push(layer.compression.blob(tar)?);
        }
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.cmd,
                "Env": self.env,
                "WorkingDir": self.working_dir,
                "User": self.user,
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Ok(Built::new(
            Blob::new(CONFIG, config.to_string().into_bytes()),
            layers,
        ))
    }
}

impl Built {
    /// Puts the manifest over parts that may be anything, also what no image should have.
    #[must_use]
    pub fn new(config: Blob, layers: Vec<Blob>) -> Self {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        Self {
            manifest: Blob::new(MANIFEST, manifest.to_string().into_bytes()),
            config,
            layers,
        }
    }
}

impl Layer {
    /// # Errors
    /// Where an entry does not fit in a tar archive.
    pub fn tar(&self) -> io::Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(u64::from(entry.owner.0));
            header.set_gid(u64::from(entry.owner.1));
            header.set_mtime(0);
            header.set_size(0);
            match &entry.kind {
                EntryKind::Directory => {
                    header.set_entry_type(tar::EntryType::Directory);
                    builder.append_data(&mut header, &entry.path, io::empty())?;
                }
                EntryKind::File(content) => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, &entry.path, content.as_slice())?;
                }
                EntryKind::Symlink(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    builder.append_link(&mut header, &entry.path, target)?;
                }
                EntryKind::HardLink(target) => {
                    header.set_entry_type(tar::EntryType::Link);
                    builder.append_link(&mut header, &entry.path, target)?;
                }
            }
        }
        builder.into_inner()
    }
}

impl Compression {
    /// A layer's blob from its plain tar archive.
    ///
    /// # Errors
    /// Where the compressor fails.
    pub fn blob(self, tar: Vec<u8>) -> io::Result<Blob> {
        Ok(match self {
            Self::Plain => Blob::new("application/vnd.oci.image.layer.v1.tar", tar),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar)?;
                Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", encoder.finish()?)
            }
            Self::Zstd => Blob::new(
                "application/vnd.oci.image.layer.v1.tar+zstd",
                zstd::encode_all(tar.as_slice(), 0)?,
            ),
        })
    }
}

/// `sha256:` and the hexadecimal digest.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// This machine's, in the words of OCI.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! Takes images in from one archive: an OCI image layout, or what `docker save` writes, old and new. Blocks.
//!
//! All files are laid aside first, with their digests taken: what an index names is then looked up by what it
//! *is*, so that nothing in the archive needs to be believed. Called by [`super::ImageStore::import`].

use super::digest::Digest;
use super::error::{ImageError, ImportFault};
use super::manifest::{
    Descriptor, Document, MAX_DOCUMENT, Manifest, ManifestFault, read_configuration, read_document,
};
use super::members::{ArchiveFault, Limits, Member, MemberKind, decompressed, for_each};
use super::pull::layer_fault;
use super::store::{Incoming, Origin, Store};
use proto::image::ImageName;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Many images in one archive; each has some twenty members.
const ARCHIVE: Limits = Limits {
    bytes: 64 << 30,
    members: 100_000,
};
const COPY_BUFFER: usize = 64 << 10;
/// An index may point to an index; nobody goes further.
const MAX_HOPS: usize = 3;
/// Where an entry of an index has its full name; the second one often is a tag alone.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Links from one member to another: old `docker save` writes them for layers that occur twice.
const MAX_LINKS: usize = 8;

/// Takes in all images of the archive at `path`, gives their references.
///
/// # Errors
/// [`ImageError`], at the first fault.
pub(super) fn import(store: &Arc<Store>, path: &Path) -> Result<Vec<String>, ImageError> {
    let import = Import {
        store,
        path,
        contents: Contents::read(store, path)?,
    };
    if import.contents.by_name(Path::new("manifest.json")).is_some() {
        import.docker()
    } else {
        import.layout()
    }
}

struct Import<'a> {
    store: &'a Arc<Store>,
    path: &'a Path,
    contents: Contents,
}

/// The archive's files, laid aside.
struct Contents {
    folder: Incoming,
    /// Files written to `folder`, which are named by number.
    written: usize,
    names: HashMap<PathBuf, Digest>,
    links: HashMap<PathBuf, PathBuf>,
    files: HashMap<Digest, Part>,
}

#[derive(Clone)]
struct Part {
    path: PathBuf,
    size: u64,
}

/// Why a member can't be laid aside.
enum LayAside {
    Archive(ArchiveFault),
    Store(ImageError),
}

impl From<ArchiveFault> for LayAside {
    fn from(fault: ArchiveFault) -> Self {
        Self::Archive(fault)
    }
}

impl Contents {
    fn read(store: &Store, path: &Path) -> Result<Self, ImageError> {
        let file = File::open(path).map_err(ImageError::store("open", path))?;
        let plain = decompressed(file).map_err(ImageError::store("read", path))?;
        let folder = store.incoming();
        std::fs::create_dir(folder.path()).map_err(ImageError::store("make", folder.path()))?;
        let mut contents = Self {
            folder,
            written: 0,
            names: HashMap::new(),
            links: HashMap::new(),
            files: HashMap::new(),
        };
        let read = for_each(plain, ARCHIVE, |member, content| contents.add(member, content));
        match read {
            Ok(()) => Ok(contents),
            Err(LayAside::Archive(fault)) => Err(ImageError::Archive {
                path: path.to_owned(),
                fault: Arc::new(fault),
            }),
            Err(LayAside::Store(error)) => Err(error),
        }
    }

    fn add(&mut self, member: Member, content: &mut dyn Read) -> Result<(), LayAside> {
        let name = tidy(&member.path);
        match member.kind {
            MemberKind::File => {
                let path = self.folder.path().join(self.written.to_string());
                self.written += 1;
                let (digest, size) = copy(content, &path)?;
                self.files.insert(digest.clone(), Part { path, size });
                self.names.insert(name, digest);
            }
            MemberKind::Symlink(target) => {
                let folder = name.parent().unwrap_or(Path::new("")).to_owned();
                self.links.insert(name, tidy(&folder.join(target)));
            }
            MemberKind::HardLink(target) => {
                self.links.insert(name, tidy(&target));
            }
            MemberKind::Directory | MemberKind::Fifo | MemberKind::Device | MemberKind::Unknown(_) => {}
        }
        Ok(())
    }

    fn by_name(&self, name: &Path) -> Option<(&Digest, &Part)> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            if let Some(digest) = self.names.get(name) {
                return self.files.get_key_value(digest);
            }
            name = self.links.get(name)?;
        }
        None
    }
}

/// A member's name as others may write it: without `.`, and `..` gone up lexically. Only ever a key.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => tidy.push(name),
            std::path::Component::ParentDir => {
                tidy.pop();
            }
            std::path::Component::CurDir
            | std::path::Component::RootDir
            | std::path::Component::Prefix(_) => {}
        }
    }
    tidy
}

fn copy(content: &mut dyn Read, path: &Path) -> Result<(Digest, u64), LayAside> {
    let write = |e| LayAside::Store(ImageError::store("write", path)(e));
    let mut file = File::create(path).map_err(write)?;
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; COPY_BUFFER];
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from(hasher), size)),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(LayAside::Archive(ArchiveFault::Read(e))),
        };
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(write)?;
        size += read as u64;
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Import<'_> {
    fn layout(&self) -> Result<Vec<String>, ImageError> {
        let (_, part) = self
            .contents
            .by_name(Path::new("index.json"))
            .ok_or_else(|| self.fault(ImportFault::Format))?;
        let index: Index = self.json("index.json", &self.document("index.json", part)?)?;
        let mut references = Vec::new();
        for entry in index.manifests {
            // A bare tag names no image.
            let full = |key| {
                entry
                    .annotations
                    .get(key)
                    .filter(|name| name.contains(['/', ':']))
            };
            let Some(name) = NAME_ANNOTATIONS.into_iter().find_map(full) else {
                continue;
            };
            let digest = Digest::parse(&entry.digest).map_err(|e| self.fault(e.into()))?;
            let (bytes, manifest) = self.manifest(digest.clone())?;
            references.push(self.add(name, Some(&digest), &bytes, &manifest)?);
        }
        if references.is_empty() {
            Err(self.fault(ImportFault::Unnamed))
        } else {
            Ok(references)
        }
    }

    /// Follows indexes to the manifest for this node.
    fn manifest(&self, digest: Digest) -> Result<(Vec<u8>, Manifest), ImageError> {
        let mut digest = digest;
        for _ in 0..MAX_HOPS {
            let name = format!("its manifest {digest}");
            let bytes = self.document(&name, self.part(&digest)?)?;
            match read_document(&bytes).map_err(|fault| self.unusable(&name, fault))? {
                Document::Manifest(manifest) => return Ok((bytes, manifest)),
                Document::Chosen(entry) => digest = entry.digest,
            }
        }
        Err(self.unusable("its index", ManifestFault::Nested(MAX_HOPS)))
    }

    fn docker(&self) -> Result<Vec<String>, ImageError> {
        let name = "manifest.json";
        let (_, part) = self
            .contents
            .by_name(Path::new(name))
            .ok_or_else(|| self.fault(ImportFault::Format))?;
        let entries: Vec<DockerEntry> = self.json(name, &self.document(name, part)?)?;
        let mut references = Vec::new();
        for entry in entries {
            let tags = entry.repo_tags.unwrap_or_default();
            if tags.is_empty() {
                continue;
            }
            let config = self.descriptor(&entry.config)?;
            let layers = entry
                .layers
                .iter()
                .map(|l| self.descriptor(l))
                .collect::<Result<Vec<_>, _>>()?;
            let bytes = manifest_of(&config, &layers);
            let manifest = match read_document(&bytes).map_err(|f| self.unusable(name, f))? {
                Document::Manifest(manifest) => manifest,
                Document::Chosen(_) => return Err(self.fault(ImportFault::Format)),
            };
            for tag in tags {
                references.push(self.add(&tag, None, &bytes, &manifest)?);
            }
        }
        if references.is_empty() {
            Err(self.fault(ImportFault::Unnamed))
        } else {
            Ok(references)
        }
    }

    /// Lets `name` lead to an image; `found_by` is the digest under which the archive has it.
    fn add(
        &self,
        name: &str,
        found_by: Option<&Digest>,
        manifest_bytes: &[u8],
        manifest: &Manifest,
    ) -> Result<String, ImageError> {
        let name = ImageName::parse(name).map_err(|e| self.fault(ImportFault::Name(e)))?;
        let reference = name.to_string();
        // Who asks for an image by its digest gets that one and no other.
        let is_that = |pinned: &String| found_by.is_some_and(|digest| digest.to_string() == *pinned);
        if !name.digest.as_ref().is_none_or(is_that) {
            return Err(self.fault(ImportFault::Pinned { name: reference }));
        }
        let title = "its configuration";
        let config_bytes = self.document(title, self.part(&manifest.config.digest)?)?;
        let config = read_configuration(&config_bytes, manifest.layers.len())
            .map_err(|fault| self.unusable(title, fault))?;
        let claim = self.store.claim(&config.diff_ids);
        for (layer, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
            if !self.store.has_layer(diff_id) {
                self.store
                    .add_layer(&self.part(&layer.digest)?.path, diff_id)
                    .map_err(|fault| layer_fault(&reference, &layer.digest, diff_id, fault))?;
            }
        }
        self.store
            .publish(&reference, manifest_bytes, &config_bytes, claim, Origin::Archive)?;
        Ok(reference)
    }

    fn part(&self, digest: &Digest) -> Result<&Part, ImageError> {
        let missing = || {
            self.fault(ImportFault::Missing {
                part: digest.to_string(),
            })
        };
        self.contents.files.get(digest).ok_or_else(missing)
    }

    fn descriptor(&self, name: &str) -> Result<Descriptor, ImageError> {
        let found = self.contents.by_name(&tidy(Path::new(name)));
        let (digest, part) = found.ok_or_else(|| {
            self.fault(ImportFault::Missing {
                part: format!("`{name}`"),
            })
        })?;
        Ok(Descriptor {
            digest: digest.clone(),
            size: part.size,
        })
    }

    fn document(&self, name: &str, part: &Part) -> Result<Vec<u8>, ImageError> {
        if part.size > MAX_DOCUMENT {
            return Err(self.unusable(name, ManifestFault::LongDocument(part.size)));
        }
        std::fs::read(&part.path).map_err(ImageError::store("read", &part.path))
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, name: &str, bytes: &[u8]) -> Result<T, ImageError> {
        serde_json::from_slice(bytes).map_err(|e| self.unusable(name, ManifestFault::Json(e.to_string())))
    }

    fn unusable(&self, document: &str, fault: ManifestFault) -> ImageError {
        self.fault(ImportFault::Document {
            document: document.to_owned(),
            fault,
        })
    }

    fn fault(&self, fault: ImportFault) -> ImageError {
        ImageError::Import {
            path: self.path.to_owned(),
            fault,
        }
    }
}

/// `docker save` writes no manifest: this is the one that its parts would have.
pub(super) fn manifest_of(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let describe = |media_type: &str, d: &Descriptor| json!({"mediaType": media_type, "digest": d.digest.to_string(), "size": d.size});
    let layer = |d: &Descriptor| describe("application/vnd.oci.image.layer.v1.tar", d);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}

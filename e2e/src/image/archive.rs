//! Writes images as one tar archive: an OCI image layout, or what `docker save` writes.

use super::{Blob, Built, Image};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{self, Write};

/// An OCI image layout; each tag of each image is one entry of its index, named
/// `docker.io/<repository>:<tag>`.
///
/// # Errors
/// Where `out` can't be written.
pub fn oci_archive(images: &[(Image, Built)], out: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    append(&mut builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut manifests = Vec::new();
    let mut written = BTreeSet::new();
    for (image, built) in images {
        for blob in built.layers.iter().chain([&built.config, &built.manifest]) {
            append_once(&mut builder, &mut written, &blob_path(blob), &blob.bytes)?;
        }
        for tag in &image.tags {
            let mut entry = built.manifest.descriptor();
            entry["annotations"] = json!({
                "io.containerd.image.name": format!("docker.io/{}:{tag}", image.repository),
                "org.opencontainers.image.ref.name": tag,
            });
            manifests.push(entry);
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    append(&mut builder, "index.json", index.to_string().as_bytes())?;
    builder.into_inner()?.flush()
}

/// The archive of `docker save`: `manifest.json` and the parts that it names, layers not compressed.
///
/// # Errors
/// Where `out` can't be written.
pub fn docker_archive(images: &[(Image, Built)], out: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    let mut manifest = Vec::new();
    let mut written = BTreeSet::new();
    for (image, built) in images {
        let config = format!("{}.json", hex_of(&built.config));
        append_once(&mut builder, &mut written, &config, &built.config.bytes)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let tar = layer.tar()?;
            let path = format!("{}/layer.tar", hex_of(&Blob::new("", tar.clone())));
            append_once(&mut builder, &mut written, &path, &tar)?;
            layers.push(path);
        }
        let tags: Vec<String> = image
            .tags
            .iter()
            .map(|t| format!("{}:{t}", image.repository))
            .collect();
        manifest.push(json!({"Config": config, "RepoTags": tags, "Layers": layers}));
    }
    append(
        &mut builder,
        "manifest.json",
        serde_json::Value::from(manifest).to_string().as_bytes(),
    )?;
    builder.into_inner()?.flush()
}

fn hex_of(blob: &Blob) -> &str {
    blob.digest.trim_start_matches("sha256:")
}

fn blob_path(blob: &Blob) -> String {
    format!("blobs/sha256/{}", hex_of(blob))
}

/// Images share layers; a part is written the first time only.
fn append_once<W: Write>(
    builder: &mut tar::Builder<W>,
    written: &mut BTreeSet<String>,
    path: &str,
    bytes: &[u8],
) -> io::Result<()> {
    if written.insert(path.to_owned()) {
        append(builder, path, bytes)
    } else {
        Ok(())
    }
}

fn append<W: Write>(builder: &mut tar::Builder<W>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes.len() as u64);
    header.set_mtime(0);
    builder.append_data(&mut header, path, bytes)
}

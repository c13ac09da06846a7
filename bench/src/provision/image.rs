//! What is run: the web server of the stand-in for nginx, a static busybox, from an image that no registry is asked for.

use crate::error::BenchError;
use crate::local::Local;
use e2e::image::{Built, EntryKind, Image, docker_archive, oci_archive, stand_ins};
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const REPOSITORY: &str = "library/nginx";
/// As a manifest names it.
pub(super) const NAME: &str = "nginx:1.27";
/// Where the server listens.
pub(super) const PORT: u16 = 80;

/// The command that serves `/www`.
pub(super) fn server(listen: &str) -> Vec<String> {
    ["/bin/busybox", "httpd", "-f", "-p", listen, "-h", "/www"]
        .map(str::to_owned)
        .into()
}

/// Brings it to the agent of a cluster.
pub(super) fn import(local: &Local) -> Result<(), BenchError> {
    let folder = tempfile::tempdir().map_err(|source| BenchError::System {
        act: "make a folder",
        source,
    })?;
    let archive = write(folder.path(), oci_archive)?;
    let (state, archive) = (local.state_dir(), archive.display().to_string());
    let state = state.display().to_string();
    local.run("sbxlet", &["--state-dir", &state, "image", "import", &archive])?;
    Ok(())
}

/// As `docker load` takes it.
pub(super) fn for_engines(folder: &Path) -> Result<PathBuf, BenchError> {
    write(folder, docker_archive)
}

fn write(
    folder: &Path,
    archive: impl FnOnce(&[(Image, Built)], BufWriter<File>) -> std::io::Result<()>,
) -> Result<PathBuf, BenchError> {
    let image = image()?;
    let built = image
        .build()
        .map_err(|error| BenchError::Image(error.to_string()))?;
    let path = folder.join("image.tar");
    let written = File::create(&path).and_then(|file| archive(&[(image, built)], BufWriter::new(file)));
    match written {
        Ok(()) => Ok(path),
        Err(source) => Err(BenchError::Write { path, source }),
    }
}

/// Its files as a folder, for those that know no images.
pub(super) fn unpack(root: &Path) -> Result<(), BenchError> {
    for entry in image()?.layers.iter().flat_map(|layer| &layer.entries) {
        let path = root.join(&entry.path);
        let unpacked = match &entry.kind {
            EntryKind::Directory => fs::create_dir_all(&path),
            EntryKind::File(bytes) => fs::write(&path, bytes)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode))),
            EntryKind::Symlink(target) => symlink(target, &path),
            EntryKind::HardLink(target) => fs::hard_link(root.join(target), &path),
        };
        unpacked.map_err(|source| BenchError::Write { path, source })?;
    }
    Ok(())
}

fn image() -> Result<Image, BenchError> {
    let images = stand_ins().map_err(|error| BenchError::Image(error.to_string()))?;
    let found = images.into_iter().find(|image| image.repository == REPOSITORY);
    found.ok_or_else(|| BenchError::Image(format!("there is no stand-in for {REPOSITORY}")))
}

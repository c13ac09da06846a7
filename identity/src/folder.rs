//! The files of an identity: one folder per machine, the same names everywhere. Secrets are written so that nobody
//! but their owner reads them, at once and as a whole, and are refused where others could have read them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The certificate of the authority, or several of them while one takes the place of another.
pub const AUTHORITY: &str = "ca.crt";
/// The key of the authority: with replicas, and nobody else.
pub const AUTHORITY_KEY: &str = "ca.key";
/// The machine's certificate, followed by the one of the authority that has signed it.
pub const CERTIFICATE: &str = "tls.crt";
pub const KEY: &str = "tls.key";
/// The hash of the cluster's first token; with replicas, for a cluster that has none yet.
pub const FIRST_TOKEN: &str = "first-token";

const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;
/// Far above any file of an identity: 256 certificates.
const MAX_BYTES: u64 = 1 << 20;

/// Why a file of an identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot {act} {}: {source}", path.display())]
    File {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} can be read by others (mode {mode:o}): make it private with `chmod 600`, and exchange it if somebody may \
         have read it",
        path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    #[error("{} is longer than {MAX_BYTES} bytes, which no file of an identity is", .0.display())]
    TooLong(PathBuf),
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    move |source| FolderError::File {
        act,
        path: path.to_owned(),
        source,
    }
}

impl FolderError {
    /// There is no such file.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A file that everybody may read.
///
/// # Errors
/// [`FolderError`]
pub fn read(path: &Path) -> Result<String, FolderError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let length = file.metadata().map_err(failed("look at", path))?.len();
    if length > MAX_BYTES {
        return Err(FolderError::TooLong(path.to_owned()));
    }
    let text = io::read_to_string(file).map_err(failed("read", path))?;
    if text.trim().is_empty() {
        return Err(FolderError::Empty(path.to_owned()));
    }
    Ok(text)
}

/// A file that nobody else may read: group and others have no right on it.
///
/// # Errors
/// [`FolderError`]
pub fn read_secret(path: &Path) -> Result<String, FolderError> {
    let metadata = std::fs::metadata(path).map_err(failed("open", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FolderError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    read(path)
}

/// Writes the file as a whole, for its owner alone.
///
/// # Errors
/// [`FolderError::File`]
pub fn write(path: &Path, text: &str) -> Result<(), FolderError> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("remove", &new)(e)),
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(PRIVATE_FILE)
        .open(&new)
        .map_err(failed("create", &new))?;
    file.write_all(text.as_bytes()).map_err(failed("write", &new))?;
    file.sync_all().map_err(failed("sync", &new))?;
    std::fs::rename(&new, path).map_err(failed("replace", path))
}

/// Makes a folder that only its owner looks into; one that is there is left as it is.
///
/// # Errors
/// [`FolderError::File`]
pub fn create(path: &Path) -> Result<(), FolderError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(PRIVATE_FOLDER);
    builder.create(path).map_err(failed("make", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_secret_is_private_and_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(KEY);
        for text in ["one", "two"] {
            write(&path, text).expect("written");
            assert_eq!(read_secret(&path).expect("read"), text);
        }
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE_FILE);
    }

    #[test]
    fn secret_that_others_can_read_or_that_is_empty_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(KEY);
        write(&path, "key").expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("set");
        assert!(matches!(read_secret(&path), Err(FolderError::Exposed { .. })));
        write(&path, " \n").expect("written");
        assert!(matches!(read_secret(&path), Err(FolderError::Empty(_))));
        assert!(
            read(&dir.path().join("none"))
                .expect_err("not there")
                .is_not_found()
        );
    }
}

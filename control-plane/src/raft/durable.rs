//! Files that survive a power cut: what is written, and in which order it reaches the disk.
//!
//! A file is durable once it is synced *and* the folder that names it is. Callers are the stores' folders;
//! nothing here knows what the files hold.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What could not be done to which path.
#[derive(Debug, thiserror::Error)]
#[error("{act} {}: {source}", path.display())]
pub struct FileError {
    pub act: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Names act and path of an error.
pub fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError {
        act,
        path: path.to_owned(),
        source,
    }
}

/// Makes the names in `dir` durable: files created, renamed and removed in it.
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync folder", dir))
}

/// Makes the content of the file durable, not its name.
pub fn sync_file(path: &Path) -> Result<(), FileError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(failed("sync", path))
}

/// The folder and those above it; the names of all that were missing are durable.
pub fn create_dir(dir: &Path) -> Result<(), FileError> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new("/"));
    create_dir(parent)?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed("create folder", dir)(e)),
        Ok(()) | Err(_) => sync_dir(if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        }),
    }
}

/// Renames within one folder; after a crash either name holds, after the return only the new one.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(failed("rename", from))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Puts `bytes` in the place of `path`: after a crash there are all the old ones or all the new ones.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let new = path.with_extension("new");
    File::create(&new)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(failed("write", &new))?;
    rename(&new, path)
}

/// Removes a folder with everything in it; that it isn't there is fine.
pub fn remove_dir(dir: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove folder", dir)(e)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The names in a folder, sorted. Names that aren't UTF-8 are none of ours and left out.
pub fn names(dir: &Path) -> Result<Vec<String>, FileError> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut names: Vec<String> = entries
        .map_err(failed("list folder", dir))?
        .into_iter()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// A folder with an owner: kept, or removed with everything in it when the owner is dropped.
#[derive(Debug)]
pub struct OwnedDir {
    path: PathBuf,
    temporary: AtomicBool,
}

impl OwnedDir {
    pub fn kept(path: PathBuf) -> Self {
        Self {
            path,
            temporary: AtomicBool::new(false),
        }
    }

    pub fn temporary(path: PathBuf) -> Self {
        Self {
            path,
            temporary: AtomicBool::new(true),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It is needed after all.
    pub fn keep(&self) {
        self.temporary.store(false, Ordering::Release);
    }

    /// It goes with its owner.
    pub fn retire(&self) {
        self.temporary.store(true, Ordering::Release);
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        if self.temporary.load(Ordering::Acquire)
            && let Err(e) = remove_dir(&self.path)
        {
            // What is left is removed at the next start.
            tracing::warn!("{e}");
        }
    }
}

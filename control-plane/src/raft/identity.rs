//! Whose data folder it is. A log under another replica's number would vote twice: refused before anything is
//! opened. Called by [`super::replica`].

use super::dismissal;
use super::durable::{self, FileError, failed};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Holds the replica's number, as text.
const FILE: &str = "replica-id";

/// Why a data folder can't be this replica's.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "the data in {} are of replica {id}, which was removed from its cluster and never comes back: start a new \
         replica with an empty --data-dir and --join",
        dir.display()
    )]
    Removed { dir: PathBuf, id: u64 },
    #[error("{} holds `{text}` instead of a replica's number", path.display())]
    Malformed { path: PathBuf, text: String },
    #[error(
        "the data in {} belong to replica {owner}, not to replica {id}: set another --data-dir, or --id {owner}",
        dir.display()
    )]
    Other { dir: PathBuf, owner: u64, id: u64 },
}

/// Makes the folder replica `id`'s, for ever, or finds that it is.
pub(super) fn claim(dir: &Path, id: u64) -> Result<(), IdentityError> {
    durable::create_dir(dir)?;
    let path = dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            durable::replace(&path, format!("{id}\n").as_bytes())?;
            return Ok(());
        }
        Err(e) => return Err(failed("read", &path)(e).into()),
    };
    match text.trim().parse::<u64>() {
        Ok(id) if dismissal::is_marked(dir) => Err(IdentityError::Removed {
            dir: dir.to_owned(),
            id,
        }),
        Ok(owner) if owner == id => Ok(()),
        Ok(owner) => Err(IdentityError::Other {
            dir: dir.to_owned(),
            owner,
            id,
        }),
        Err(_) => Err(IdentityError::Malformed { path, text }),
    }
}

/// Whose folder it is; `None`: nobody's yet.
pub(crate) fn owner(dir: &Path) -> Result<Option<u64>, IdentityError> {
    let path = dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("read", &path)(e).into()),
    };
    match text.trim().parse() {
        Ok(owner) => Ok(Some(owner)),
        Err(_) => Err(IdentityError::Malformed { path, text }),
    }
}

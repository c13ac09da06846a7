//! What can go wrong in a replica's stores. openraft gets it as an [`std::io::Error`] and stops the replica.

use super::codec::CodecError;
use super::durable::FileError;
use super::group_commit::DiskFailed;
use super::snapshot::SnapshotError;
use crate::state::{LoadError, Newer};
use std::path::PathBuf;

/// What went wrong in a store. A replica that meets one of these stops.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("open the database {}: {source}", dir.display())]
    Open { dir: PathBuf, source: rocksdb::Error },
    #[error("{act}: {source}")]
    Database {
        act: &'static str,
        source: rocksdb::Error,
    },
    #[error("{what} in {} is damaged: {source}; replace this replica", dir.display())]
    Damaged {
        what: String,
        dir: PathBuf,
        source: CodecError,
    },
    #[error("the log in {} has no entry {index}, although there are later ones; replace this replica", dir.display())]
    Hole { dir: PathBuf, index: u64 },
    #[error("the log in {} holds a record under the key `{key}`, which is no index", dir.display())]
    Key { dir: PathBuf, key: String },
    #[error("the database has no column family `{name}`")]
    NoFamily { name: &'static str },
    #[error("entry {got} was to be appended where {expected} is next")]
    OutOfOrder { expected: u64, got: u64 },
    #[error("the state in {} can't be read: {source}", dir.display())]
    Load { dir: PathBuf, source: LoadError },
    #[error("the snapshot in {} covers the log up to {found} and not {promised}", dir.display())]
    OtherSnapshot {
        dir: PathBuf,
        found: String,
        promised: String,
    },
    #[error("{} names no database: `{text}`", path.display())]
    Pointer { path: PathBuf, text: String },
    #[error(transparent)]
    Newer(#[from] Newer),
    #[error("start the thread that syncs the log: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    DiskFailed(#[from] DiskFailed),
    #[error("the work on {} was cancelled: the program stops", dir.display())]
    Cancelled { dir: PathBuf },
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        std::io::Error::other(error)
    }
}

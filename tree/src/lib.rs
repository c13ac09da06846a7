//! Trees of files as tar streams, and back, where a stranger has made the files or may change them meanwhile: the
//! user of a container is one to whom copies out of it, and the container is one to whom copies into it.
//!
//! | file | owns |
//! |---|---|
//! | `folder` | one directory as an open file, from which no step leads out |
//! | `pack` | files to a stream |
//! | `unpack` | a stream to files |
//! | `target` | where the first name of a stream goes |
//!
//! Nothing here follows a symbolic link, opens a device or pipe, or leaves the directory that it was given; it knows
//! nothing of containers and of the network. Called by `sbxlet copy` within containers, and by `sbxctl cp` outside.
//! Linux 5.6 and later.

mod folder;
mod pack;
mod target;
mod unpack;

pub use folder::Folder;
pub use pack::{Packed, pack};
pub use target::Target;
pub use unpack::{Policy, Unpacked, unpack};

use nix::errno::Errno;
use std::io;
use std::path::PathBuf;

/// The deepest directory. Packing takes an open file for each level; real trees are at most some 50 levels deep.
pub const MAX_DEPTH: usize = 256;

/// Why a tree can't be copied. Names are quoted: they are a stranger's, and may be shown on a terminal.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("cannot {act} {path:?}: {}", .source.desc())]
    File {
        act: &'static str,
        path: PathBuf,
        source: Errno,
    },
    #[error("{path:?} is more than {MAX_DEPTH} directories deep")]
    Deep { path: PathBuf },
    /// The other end of the stream has gone, or its disk is full.
    #[error("cannot write the archive: {0}")]
    Send(io::Error),
    #[error("cannot read the archive: {0}")]
    Receive(io::Error),
    #[error("the archive is empty")]
    Empty,
    #[error("the archive names {path:?}, which leads out of it")]
    Outside { path: PathBuf },
    #[error("the archive has {path:?} of the unknown kind {kind:?}")]
    Kind { path: PathBuf, kind: char },
    #[error("the archive has too many directories")]
    Folders,
    #[error("{path:?} is no directory, so only one file or directory can be copied to it")]
    Several { path: PathBuf },
    #[error("{path:?} is not there; its directory must be")]
    NoParent { path: PathBuf },
    #[error("{path:?} is no directory")]
    NoFolder { path: PathBuf },
}

impl TreeError {
    /// Where the copy was stopped for want of room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::File {
                source: Errno::ENOSPC | Errno::EDQUOT,
                ..
            }
        )
    }
}

#[cfg(test)]
mod tests;

//! What containers have written, on disk: one folder a container, in the format of the CRI, one line of the
//! file per line of output: `2026-01-02T03:04:05.123456789Z stdout F text`. Pieces of a line that is longer
//! than [`MAX_PIECE`] have the tag `P`, its last one `F`.
//!
//! | file | owns |
//! |---|---|
//! | `line` | the format |
//! | `files` | the names, and which file is followed by which |
//! | `writer` | from a container's pipes to the folder; used by the monitor; never blocks on a reader |
//! | `reader` | from one folder to whole lines, across rotations |
//! | `watch` | notice of new output |
//! | `merge` | several containers as one stream, following; used by the agent |

mod files;
mod line;
mod merge;
mod reader;
mod watch;
mod writer;

pub use line::{Line, Stream};
pub use merge::read;
pub use writer::Writer;

use proto::id::Name;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The longest piece of a line that is kept as one record, as in the CRI and Docker.
pub const MAX_PIECE: usize = 16 << 10;
/// From this size on a file is full, and the next record goes into a new one.
pub const MAX_FILE: u64 = 10 << 20;
/// Files of a container: the one that is written, and full ones.
pub const FILES: usize = 3;

/// One container whose logs are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub container: Name,
    /// The folder that its [`Writer`] has; it is there.
    pub dir: PathBuf,
}

/// Which lines are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query {
    /// At most this many, the last ones, of each container; `None`: all.
    pub tail: Option<u64>,
    /// Only those that were written at or after this time, since the Unix epoch.
    pub since: Duration,
    /// Also those that are still to be written.
    pub follow: bool,
}

/// What could not be done with the logs of a container.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error("cannot open the log {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read the log {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The lines are lost, and counted; later ones are kept again as soon as there is room.
    #[error("cannot write the log {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot begin the next log file after {}: {source}", path.display())]
    Rotate { path: PathBuf, source: io::Error },
    #[error("cannot watch the folder of logs {}: {source}", path.display())]
    Watch { path: PathBuf, source: io::Error },
    #[error("cannot await new lines: {0}")]
    Wait(io::Error),
    #[error("reading logs was interrupted: {0}")]
    Interrupted(String),
}

#[cfg(test)]
mod tests;

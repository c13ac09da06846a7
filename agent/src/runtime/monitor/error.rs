//! What the agent could not do with a monitor.

use crate::sealed::SealedError;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    #[error("cannot make the monitor's folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("a monitor was launched in {} already", path.display())]
    Launched { path: PathBuf },
    #[error("cannot open the monitor's log {}: {source}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("cannot listen on the monitor's socket {}: {source}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot start the monitor {}: {source}", path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error("cannot connect to the monitor's socket {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("cannot await the end of the monitor, process {pid}: {source}")]
    Watch { pid: i32, source: io::Error },
    /// The specification or the state of a monitor.
    #[error(transparent)]
    File(#[from] SealedError),
    #[error("the monitor of {} has ended, and with it what it could be told", path.display())]
    Ended { path: PathBuf },
    #[error("the monitor of {} did not answer within {seconds} s", path.display())]
    Silent { path: PathBuf, seconds: u64 },
    #[error("the monitor of {} refused: {why}", path.display())]
    Refused { path: PathBuf, why: String },
}

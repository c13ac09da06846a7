//! Why a run can't be made or gone on with.

use cli::client::ClientError;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("cannot {act}: {source}")]
    System { act: &'static str, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: io::Error },
    #[error("`{command}` has failed ({status}): {words}")]
    Failed {
        command: String,
        status: std::process::ExitStatus,
        words: String,
    },
    #[error("cannot make the image that is run: {0}")]
    Image(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Context(#[from] cli::context::ContextError),
    #[error("the manifest of a sandbox is refused: {0}")]
    Manifest(String),
    #[error("sandbox {id} did not come to run: {why}")]
    Sandbox { id: String, why: String },
    #[error("{what} did not happen within {seconds} s")]
    Timeout { what: String, seconds: u64 },
    #[error("the watch on the cluster has ended")]
    Unwatched,
    #[error("node {0} tells no address at which its published ports could be reached")]
    NoAddress(String),
    #[error("there are no {0}: nothing was measured")]
    Nothing(&'static str),
    #[error("etcd refuses a write: {}", .0.message())]
    Etcd(Box<tonic::Status>),
    #[error("{source}; the log of a member ends with: {log}")]
    EtcdStart { source: Box<BenchError>, log: String },
    #[error("told to end; nothing was written")]
    Interrupted,
    #[error("{0} is left after the run")]
    Left(String),
}

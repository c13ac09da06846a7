//! How a command ends when it does not succeed. The one place that maps failures to exit codes.

use crate::client::ClientError;
use crate::context::ContextError;
use crate::dev::DevError;
use crate::provision::ProvisionError;
use std::path::PathBuf;
use std::time::Duration;

/// The command ran, and it or the cluster said no.
pub const EXIT_FAILED: u8 = 1;
/// The command line itself is wrong; clap exits with the same code.
pub const EXIT_USAGE: u8 = 2;
/// A manifest is wrong; nothing was sent.
pub const EXIT_INVALID: u8 = 3;
/// Time ran out: no replica could answer, or what was awaited did not come.
pub const EXIT_TIMEOUT: u8 = 4;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{faults}\n{count} fault{} found, nothing was sent", if *.count == 1 { "" } else { "s" })]
    Invalid { faults: String, count: usize },
    #[error("read {}: {source}", path.display())]
    ReadFile { path: PathBuf, source: std::io::Error },
    #[error("write {}: {source}", path.display())]
    WriteFile { path: PathBuf, source: std::io::Error },
    #[error("no manifest in {}: files are taken that end in .yaml, .yml or .json", path.display())]
    EmptyFolder { path: PathBuf },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}")]
    NeverComes(String),
    #[error("{what} did not come within {}; last seen: {last}", humantime::format_duration(*waited))]
    TimedOut {
        what: String,
        waited: Duration,
        last: String,
    },
    /// Each one has been reported on stderr already.
    #[error("{failed} of {total} failed")]
    Several { failed: usize, total: usize, code: u8 },
    #[error(
        "no cluster is known: name its replicas with --server or SBX_SERVER, or a context with --context, or start a local one with `sbxctl dev up`"
    )]
    NoCluster,
    #[error("a replica sent what this program can't read ({0}); it may be newer than this sbxctl")]
    Unreadable(#[from] proto::convert::ConvertError),
    #[error(transparent)]
    Copy(#[from] tree::TreeError),
    #[error("the copy has ended before its end; what has arrived of it stays")]
    Incomplete,
    #[error("listen on {address}: {source}")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error("write the output: {0}")]
    Output(std::io::Error),
    #[error("render the output: {0}")]
    Render(String),
    #[error("use the terminal: {0}")]
    Terminal(std::io::Error),
    #[error("listen to signals: {0}")]
    Signals(std::io::Error),
    /// What was run there has ended so, and has said what it had to say.
    #[error("exit code {0}")]
    Exited(u8),
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error(transparent)]
    Dev(#[from] DevError),
}

impl Failure {
    /// One of the `EXIT_*` codes, which `sbxctl --help` documents.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::NoCluster => EXIT_USAGE,
            Self::Invalid { .. } => EXIT_INVALID,
            Self::TimedOut { .. } => EXIT_TIMEOUT,
            Self::Client(error) if error.is_timeout() => EXIT_TIMEOUT,
            Self::Several { code, .. } | Self::Exited(code) => *code,
            Self::ReadFile { .. }
            | Self::WriteFile { .. }
            | Self::EmptyFolder { .. }
            | Self::Client(_)
            | Self::NeverComes(_)
            | Self::Unreadable(_)
            | Self::Copy(_)
            | Self::Incomplete
            | Self::Listen { .. }
            | Self::Output(_)
            | Self::Render(_)
            | Self::Context(_)
            | Self::Provision(_)
            | Self::Terminal(_)
            | Self::Signals(_)
            | Self::Dev(_) => EXIT_FAILED,
        }
    }

    /// No reason to complain: the reader of our output has gone (`sbxctl get ... | head`), or somebody else's program has
    /// ended as it did.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        match self {
            Self::Output(source) => source.kind() == std::io::ErrorKind::BrokenPipe,
            Self::Exited(_) => true,
            _ => false,
        }
    }
}

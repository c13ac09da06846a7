//! What users see and do in this node's sandboxes, each over a stream of its own: logs, exec, attach, copy, port-forward.
//! Knows nothing of leaders: `session` opens the streams, and drops what is done here as soon as the user has gone.
//!
//! | file | owns |
//! |---|---|
//! | `talk` | both directions of a stream |
//! | `logs` | what containers have written |
//! | `exec` | a command in a container |
//! | `terminal` | the other end of a command's terminal |
//! | `attach` | what a container writes from now on |
//! | `copy` | files into a container, and out of it |
//! | `forward` | a connection to a port |
//!
//! Nothing here is buffered but what the stream holds: a slow user makes the sandbox wait, or what he reads.

mod attach;
mod copy;
mod exec;
mod forward;
mod logs;
mod talk;
mod terminal;

pub use talk::{Hears, Left, Says, Talk};

use crate::record;
use crate::report::Reports;
use crate::runtime::copy::CopyFault;
use crate::runtime::forward::ForwardFault;
use crate::runtime::logs::LogsError;
use crate::runtime::monitor::MonitorError;
use proto::id::{SandboxId, Uid};
use proto::relay::Input;
use proto::wire::open_relay::What;
use proto::wire::relay_request::What as Wish;
use proto::wire::{self, Phase};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// From the stream's start to the user's word that he has it: a round trip to him.
const BEGIN: Duration = Duration::from_secs(10);

/// Why a user does not get what he wants.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("sandbox {0} is not on this node")]
    NoSandbox(String),
    #[error("sandbox {sandbox} has no container {container}; it has {}", .known.join(", "))]
    NoContainer {
        sandbox: String,
        container: String,
        known: Vec<String>,
    },
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error(transparent)]
    Copy(#[from] CopyFault),
    #[error(transparent)]
    Forward(#[from] ForwardFault),
    #[error("{0} is no port: 1..=65535 are")]
    Port(u32),
    /// In the monitor's words.
    #[error("{0}")]
    Refused(String),
    #[error("the sandbox has ended")]
    Over,
    #[error(transparent)]
    Monitor(MonitorError),
    #[error("cannot make a pipe: {0}")]
    Pipe(io::Error),
    #[error("cannot get its terminal: {0}")]
    Console(io::Error),
    #[error("a terminal of {0} rows and {1} columns can't be had: both are 1 to 65535")]
    Terminal(u32, u32),
    #[error("container {0} takes no input: containers are started without one")]
    NoInput(String),
    #[error("the conversation was opened and not begun")]
    NotBegun,
    #[error("this agent does not know what is asked for; it is older than the leader")]
    Unknown,
}

impl From<MonitorError> for RelayError {
    fn from(error: MonitorError) -> Self {
        match error {
            MonitorError::Refused { why, .. } => Self::Refused(why),
            MonitorError::Ended { .. } => Self::Over,
            error => Self::Monitor(error),
        }
    }
}

/// The sandboxes of this node, as they are found for a user.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    pub reports: Reports,
    /// Where their folders are.
    pub folder: PathBuf,
}

/// One of them.
pub(crate) struct Found {
    pub(crate) uid: Uid,
    /// As told last.
    pub(crate) report: wire::SandboxReport,
    /// Its own folder.
    pub(crate) dir: PathBuf,
}

impl Found {
    /// The folder of its monitor.
    pub(crate) fn monitor(&self) -> PathBuf {
        crate::host::monitor(&self.dir)
    }
}

impl Sandboxes {
    /// The newest sandbox of that id that is not gone.
    pub(crate) fn find(&self, id: &str) -> Result<Found, RelayError> {
        let found = SandboxId::new(id).ok().and_then(|id| self.reports.find(&id));
        match found.filter(|(_, report)| report.phase() != Phase::Deleting) {
            Some((uid, report)) => Ok(Found {
                uid,
                report,
                dir: record::folder(&self.folder, uid),
            }),
            None => Err(RelayError::NoSandbox(id.to_owned())),
        }
    }
}

/// The sandbox that a relay is about; empty where nothing is asked for that is known.
pub(crate) fn sandbox_of(what: Option<&What>) -> &str {
    match what {
        Some(What::Logs(request)) => &request.sandbox_id,
        Some(What::Conversation(request)) => &request.sandbox_id,
        None => "",
    }
}

/// Serves a user to the end. Dropped where he has gone: whatever was begun for him ends then.
///
/// # Errors
/// [`RelayError`], which he is told.
pub(crate) async fn serve(
    what: Option<What>,
    talk: &mut Talk,
    sandboxes: &Sandboxes,
) -> Result<(), RelayError> {
    match what {
        Some(What::Logs(request)) => logs::serve(request, talk, sandboxes).await,
        Some(What::Conversation(request)) => {
            match timeout(BEGIN, talk.hears.next()).await {
                Ok(Some(Input::Begin(_))) => {}
                // He has given up, and may have asked another replica.
                Ok(None) => return Ok(()),
                Ok(Some(_)) | Err(_) => return Err(RelayError::NotBegun),
            }
            let found = sandboxes.find(&request.sandbox_id)?;
            let container = request.container;
            match request.what {
                Some(Wish::Exec(exec)) => exec::serve(exec, container, talk, &found).await,
                Some(Wish::Attach(_)) => attach::serve(&container, talk, &found).await,
                Some(Wish::Copy(copy)) => copy::serve(copy, container, talk, &found).await,
                Some(Wish::Forward(forward)) => forward::serve(forward, talk, &found).await,
                None => Err(RelayError::Unknown),
            }
        }
        None => Err(RelayError::Unknown),
    }
}

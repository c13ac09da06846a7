//! The OCI runtimes, which make a container from a bundle: all behind the one narrow interface that the
//! monitor needs. None of them watches a container or knows of a sandbox: that is the monitor's. Everything
//! here blocks, for at most the times that the constants name, and is called by the monitor's only thread.
//!
//! | file | owns |
//! |---|---|
//! | `available` | which of them this node has |
//! | `native` | the built-in one |
//! | `cli` | `runc` and those that have its command line |
//! | `runsc` | gVisor: all containers of a sandbox in one instance of its kernel |
//! | `program` | how such a program is run |
//! | `words` | what a runtime says where it fails |

mod available;
mod cli;
mod native;
mod program;
mod runsc;
mod words;

pub use available::runtimes;
pub use native::{Enter, enter};
pub use runsc::INSTANCE;

use crate::runtime::cgroup::Cgroups;
use crate::runtime::sys::wait::Ended;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::{Capabilities, Capability};
use proto::spec;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Any step of a runtime takes some 50 ms, and seconds on a machine under heavy load. One that takes this long
/// hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A container to make; unique among those of one [`Runtime`].
#[derive(Debug, Clone, Copy)]
pub struct Container<'a> {
    /// `[A-Za-z0-9_.-]+`
    pub id: &'a str,
    /// The folder of `config.json`.
    pub bundle: &'a Path,
}

/// Where the container's processes write. Each is closed here once the container is made.
#[derive(Debug)]
pub struct Output {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A process to start in a container that runs, beside its program. All paths are absolute but for the socket.
#[derive(Debug, Clone, Copy)]
pub struct Exec<'a> {
    /// The container.
    pub id: &'a str,
    /// The OCI spec's `process`, as JSON.
    pub process: &'a Path,
    /// Where its number is written.
    pub pid_file: &'a Path,
    /// Where is said why it could not be started.
    pub log: &'a Path,
    /// Who listens there is sent the master of its terminal, where it has one. Relative to the caller's folder, which
    /// must be the program's as well: an address ends at 108 bytes.
    pub console: Option<&'a Path>,
}

/// Why a step of a runtime did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// What was asked for can't be had: the runtime says why.
    #[error("cannot {act} container {container}: {words}")]
    Failed {
        act: &'static str,
        container: String,
        words: String,
    },
    #[error("cannot {act} container {container}: {program} did not return within {} s", patience.as_secs())]
    Hangs {
        act: &'static str,
        container: String,
        program: String,
        patience: Duration,
    },
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot make {}: {source}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("{} is no number of a process: {text:?}", path.display())]
    Malformed { path: PathBuf, text: String },
    #[error("there is no bundle for the instance that {0} runs containers in")]
    NoInstance(spec::Runtime),
    #[error("cannot remove {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}

impl RuntimeError {
    /// It is what the container asks for, and not the node, that is at fault.
    #[must_use]
    pub fn is_of_container(&self) -> bool {
        match self {
            Self::Failed { .. } => true,
            Self::Hangs { .. }
            | Self::Run { .. }
            | Self::Read { .. }
            | Self::Make { .. }
            | Self::Malformed { .. }
            | Self::NoInstance(_)
            | Self::Remove { .. } => false,
        }
    }
}

/// What all containers of a sandbox run in, for a runtime that has such a thing.
#[derive(Debug, Clone, Copy)]
pub struct Instance<'a> {
    /// The folder of `config.json`.
    pub bundle: &'a Path,
    /// How system calls are intercepted, such as `systrap`.
    pub platform: &'a str,
}

/// What makes, starts, signals and removes containers. Each has a process that stands for it: its first one, or
/// one on the host that ends right after it. They are children of the caller, or become such because it is a
/// subreaper (`PR_SET_CHILD_SUBREAPER`); who calls waits for them.
pub trait Runtime {
    /// Makes the container up to, but not including, the start of its program. Leaves nothing where it fails,
    /// but maybe children to wait for. May leave the caller with the container's `oom_score_adj`.
    /// Gives the container's process, if it has one before it is started.
    ///
    /// # Errors
    /// [`RuntimeError`].
    fn create(&mut self, container: Container<'_>, output: Output) -> Result<Option<Pid>, RuntimeError>;

    /// Starts its program. Gives the container's process, if it had none before.
    ///
    /// # Errors
    /// [`RuntimeError`]; its process, if any, has ended then, or is about to, unless it hangs.
    fn start(&mut self, id: &str) -> Result<Option<Pid>, RuntimeError>;

    /// Signals the first process of one that was created and has not been waited for.
    ///
    /// # Errors
    /// [`RuntimeError`], also where it has ended.
    fn kill(&mut self, id: &str, signal: Signal) -> Result<(), RuntimeError>;

    /// The program that starts a further process, which becomes a child of the next subreaper. It ends once that was
    /// done, or with a failure and the reason in the log. Not run yet, and without its standard streams, which are the
    /// process' as well where it has no terminal.
    ///
    /// # Errors
    /// [`RuntimeError`]
    fn exec(&mut self, exec: &Exec<'_>) -> Result<Command, RuntimeError>;

    /// Forgets it, and removes its cgroup; its processes, if any, are killed. Idempotent.
    ///
    /// # Errors
    /// [`RuntimeError`].
    fn delete(&mut self, id: &str) -> Result<(), RuntimeError>;

    /// How the container has ended whose process was waited for and ended in the way of `process`.
    fn ended(&mut self, id: &str, process: Ended) -> Ended {
        let _ = id;
        process
    }

    /// Ends what the containers shared, once all are deleted. Idempotent.
    ///
    /// # Errors
    /// [`RuntimeError`].
    fn close(&mut self) -> Result<(), RuntimeError> {
        Ok(())
    }
}

/// Whether a runtime can set the limits of a container's processes. runc does it from outside, where within a user namespace
/// it is one more user's process, and it takes a capability that not every node has.
#[must_use]
pub fn sets_limits(kind: spec::Runtime, available: &Capabilities, in_user_namespace: bool) -> bool {
    match kind {
        spec::Runtime::Runc => !in_user_namespace || available.contains(&Capability::SysResource),
        spec::Runtime::Native | spec::Runtime::Crun | spec::Runtime::Runsc => true,
    }
}

/// What such a program has said in its `log`: the outermost error; empty where there is none.
#[must_use]
pub(crate) fn reason(log: &Path) -> String {
    words::Words::of(log).last()
}

/// The runtime `kind`. Keeps its state below `root`, which is its own, and writes to the file `log`; `cgroups` are the
/// machine's.
///
/// # Errors
/// [`RuntimeError::Make`], [`RuntimeError::NoInstance`].
pub fn open(
    kind: spec::Runtime,
    instance: Option<Instance<'_>>,
    root: &Path,
    log: &Path,
    cgroups: &Cgroups,
) -> Result<Box<dyn Runtime>, RuntimeError> {
    std::fs::create_dir_all(root).map_err(|source| RuntimeError::Make {
        path: root.to_owned(),
        source,
    })?;
    Ok(match kind {
        spec::Runtime::Native => Box::new(native::Native::new(cgroups.clone())),
        spec::Runtime::Runc | spec::Runtime::Crun => {
            Box::new(cli::CommandLine::new(kind, Vec::new(), root, log))
        }
        spec::Runtime::Runsc => {
            let instance = instance.ok_or(RuntimeError::NoInstance(kind))?;
            Box::new(runsc::Runsc::new(instance, root, log))
        }
    })
}

//! A further process in a container of the built-in runtime. Started by a small program beside the monitor, `sbxlet
//! enter`, as the command lines of the other runtimes are: the monitor's only thread must not wait for what may take as
//! long as a container without cpu time lets it.
//!
//! It enters the container as the node's root, out of sight and out of reach of its programs until one of them takes its
//! place.

use super::fault::Fault;
use super::plan::Plan;
use super::privileges::{Bounds, give_up, hand_over};
use super::process::ProcessPlan;
use super::word::{self, Speaker, Word};
use super::{program, spec, terminal};
use crate::runtime::cgroup::Cgroups;
use crate::runtime::process::words::tell;
use crate::runtime::process::{Exec, PATIENCE};
use crate::runtime::seccomp;
use crate::runtime::sys::clone::{Alone, CloneError};
use crate::runtime::sys::pidfd::PidFd;
use clap::Args;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getppid, setsid};
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What to start, and where.
#[derive(Debug, Clone, Args)]
pub struct Enter {
    /// The container's first process, a child of who starts this
    #[arg(long)]
    pid: i32,
    #[arg(long)]
    bundle: PathBuf,
    #[arg(long)]
    process: PathBuf,
    #[arg(long)]
    pid_file: PathBuf,
    #[arg(long)]
    log_file: PathBuf,
    #[arg(long)]
    console: Option<PathBuf>,
}

/// Why it was not started.
#[derive(Debug, thiserror::Error)]
enum EnterError {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Clone(#[from] CloneError),
    #[error("{0}")]
    Start(String),
    #[error("it did not start within {} s", PATIENCE.as_secs())]
    Hangs,
}

impl Enter {
    pub(super) fn of(pid: Pid, bundle: &Path, exec: &Exec<'_>) -> Self {
        Self {
            pid: pid.as_raw(),
            bundle: bundle.to_owned(),
            process: exec.process.to_owned(),
            pid_file: exec.pid_file.to_owned(),
            log_file: exec.log.to_owned(),
            console: exec.console.map(Path::to_owned),
        }
    }

    /// The program that does it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("sbxlet")
            .arg("enter")
            .arg(format!("--pid={}", self.pid))
            .arg("--bundle")
            .arg(&self.bundle)
            .arg("--process")
            .arg(&self.process)
            .arg("--pid-file")
            .arg(&self.pid_file)
            .arg("--log-file")
            .arg(&self.log_file);
        if let Some(console) = &self.console {
            command.arg("--console").arg(console);
        }
        command
    }
}

/// Starts the process and ends.
#[must_use]
pub fn main(enter: &Enter) -> ExitCode {
    // Before the node's files are out of sight.
    let log = File::options().create(true).append(true).open(&enter.log_file);
    match start(enter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The monitor reads it there; where even that fails, it knows of the failure at least.
            log.and_then(|log| tell(&log, &error.to_string())).ok();
            ExitCode::FAILURE
        }
    }
}

/// All that must be at hand before the node is out of sight.
struct Entering {
    plan: Plan,
    process: ProcessPlan,
    filter: Option<Vec<u8>>,
    user: Option<File>,
    console: Option<UnixStream>,
    speaker: Speaker,
}

fn start(enter: &Enter) -> Result<(), EnterError> {
    // Nobody whom it comes to share a pid namespace with may look into it, or at its program.
    prctl::set_dumpable(false).map_err(Fault::doing("close itself off"))?;
    let first = Pid::from_raw(enter.pid);
    let container = PidFd::open(first).map_err(Fault::doing("find the container's process"))?;
    check_parent(first)?;
    let plan = Plan::of(&spec(&enter.bundle)?).map_err(Fault::from)?;
    let process: oci_spec::runtime::Process = json(&enter.process)?;
    let filter = plan.filter.map(|_| seccomp::compiled(&enter.bundle)).transpose();
    let user = plan.user.as_ref().map(|user| &user.path);
    let open = |path: &PathBuf| File::open(path).map_err(Fault::at("open", path));
    let connect = |path: &PathBuf| UnixStream::connect(path).map_err(Fault::at("connect to", path));
    let (speaker, mut hearer) = word::pair().map_err(Fault::doing("make a pipe"))?;
    let null = Path::new("/dev/null");
    let null = File::options()
        .read(true)
        .write(true)
        .open(null)
        .map_err(Fault::at("open", null))?;
    let mut pid_file = File::create(&enter.pid_file).map_err(Fault::at("make", &enter.pid_file))?;
    let entering = Entering {
        process: ProcessPlan::of(&process).map_err(Fault::from)?,
        filter: filter.map_err(Fault::from)?,
        user: user.map(open).transpose()?,
        console: enter.console.as_ref().map(connect).transpose()?,
        speaker,
        plan,
    };
    let alone = Alone::check()?;
    let cgroups = Cgroups::detect().map_err(Fault::from)?;
    cgroups.join(&entering.plan.cgroup).map_err(Fault::from)?;
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    setns(container.as_fd(), all).map_err(Fault::doing("enter the container's namespaces"))?;
    let pid = alone.child(CloneFlags::empty(), None, || entering.run())?;
    drop_streams(&null).map_err(Fault::doing("let go of its standard streams"))?;
    io::Write::write_all(&mut pid_file, pid.to_string().as_bytes())
        .map_err(Fault::at("write", &enter.pid_file))?;
    match hearer.next().map_err(Fault::doing("hear how it went"))? {
        Word::Silence | Word::Ready => Ok(()),
        Word::Failed(why) => Err(EnterError::Start(why)),
        Word::Hangs => Err(EnterError::Hangs),
    }
}

/// A number may have come to mean another process, but not a child that its parent has not waited for.
fn check_parent(first: Pid) -> Result<(), Fault> {
    let path = PathBuf::from(format!("/proc/{first}/status"));
    let status = std::fs::read_to_string(&path).map_err(Fault::at("read", &path))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    match parent.map(|parent| parent.trim().parse()) {
        Some(Ok(parent)) if Pid::from_raw(parent) == getppid() => Ok(()),
        _ => Err(Fault::doing("enter the container, which has ended")(Errno::ESRCH)),
    }
}

impl Entering {
    /// Gives the exit code, where there was no program to become.
    fn run(self) -> i32 {
        let Err(fault) = self.course();
        self.speaker.failed(&fault);
        1
    }

    fn course(&self) -> Result<Infallible, Fault> {
        setsid().map_err(Fault::doing("begin a session"))?;
        umask(Mode::empty());
        let (process, ids) = (&self.process, self.plan.ids());
        match (&self.console, process.terminal) {
            (Some(console), Some(size)) => {
                hand_over(terminal::take(console, size)?, process, ids)?;
            }
            (None, None) => {
                for stream in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
                    hand_over(stream, process, ids)?;
                }
            }
            (Some(_), None) | (None, Some(_)) => {
                return Err(Fault::doing("make a terminal without a socket for it")(
                    Errno::EINVAL,
                ));
            }
        }
        let user = self.user.as_ref().map(File::try_clone).transpose();
        let filter = self.filter.as_deref().zip(self.plan.filter);
        give_up(&Bounds {
            process,
            user: user.map_err(Fault::doing("keep its user namespace"))?,
            filter,
        })?;
        program::run(process)
    }
}

/// So that whoever reads from the process' pipes is not held up by us.
fn drop_streams(null: &File) -> Result<(), Errno> {
    dup2_stdin(null)?;
    dup2_stdout(null)?;
    dup2_stderr(null)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Fault> {
    let text = std::fs::read(path).map_err(Fault::at("read", path))?;
    serde_json::from_slice(&text).map_err(|source| Fault::Malformed {
        path: path.to_owned(),
        source,
    })
}

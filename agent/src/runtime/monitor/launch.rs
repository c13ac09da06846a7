//! Starts a monitor, detached: it outlives who started it.

use super::watch::Monitor;
use super::{MonitorError, files, socket, state};
use crate::runtime::sys::pidfd::PidFd;
use nix::unistd::Pid;
use proto::wire;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Specifications hold no secrets, but logs and runtimes' states may.
const FOLDER_MODE: u32 = 0o700;
const LOG_MODE: u32 = 0o600;
/// What is passed on of the agent's environment: the search path, for runtimes of the command line.
const ENVIRONMENT: [&str; 1] = ["PATH"];

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its own, `<sandbox>/monitor`; made where it is missing.
    pub dir: PathBuf,
    pub spec: wire::MonitorSpec,
    /// The program that has the subcommand `monitor`; see [`Launch::this_program`].
    pub program: PathBuf,
}

impl Launch {
    /// The program that is running, also where its file was replaced since.
    #[must_use]
    pub fn this_program() -> PathBuf {
        PathBuf::from("/proc/self/exe")
    }
}

/// Starts the monitor, which creates and starts the containers by itself: what becomes of that is seen in
/// [`Monitor::state`]. The sandbox's cgroup, the bundles, and what they refer to must be there.
///
/// # Errors
/// [`MonitorError`]; nothing was started then. A folder is for one launch.
pub async fn launch(launch: Launch) -> Result<Monitor, MonitorError> {
    let Launch { dir, spec, program } = launch;
    let mut folder = DirBuilder::new();
    folder.recursive(true).mode(FOLDER_MODE);
    folder.create(&dir).map_err(|source| MonitorError::Folder {
        path: dir.clone(),
        source,
    })?;
    if files::spec(&dir).exists() {
        return Err(MonitorError::Launched { path: dir });
    }
    let path = files::socket(&dir);
    let listen = |source| MonitorError::Listen {
        path: path.clone(),
        source,
    };
    let listener = socket::listener(&path).map_err(listen)?;
    let log = open_log(&dir)?;
    files::write_spec(&dir, &spec)?;
    let start = |source| MonitorError::Start {
        path: program.clone(),
        source,
    };
    let mut child = command(&program, &dir, listener.into(), log)
        .and_then(|mut command| command.spawn())
        .map_err(start)?;
    let process = match process(&child) {
        Ok(process) => process,
        Err(source) => {
            child.kill().await.map_err(start)?;
            return Err(start(source));
        }
    };
    // It is not waited for by anyone else, and would stay a zombie while the agent lives.
    tokio::spawn(async move {
        if let Err(error) = child.wait().await {
            tracing::warn!(%error, "cannot await the end of a monitor");
        }
    });
    Monitor::connect(dir, state::starting(&spec), process)
}

fn open_log(dir: &Path) -> Result<File, MonitorError> {
    let path = files::log(dir);
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(LOG_MODE);
    options
        .open(&path)
        .map_err(|source| MonitorError::Log { path, source })
}

/// The socket is its standard input: so it is there before the process is, and while the process is.
fn command(program: &Path, dir: &Path, listener: OwnedFd, log: File) -> io::Result<Command> {
    let mut command = Command::new(program);
    command
        .arg0("sbxlet")
        .args(["monitor", "--dir"])
        .arg(dir)
        .current_dir("/")
        .env_clear()
        .envs(
            ENVIRONMENT
                .iter()
                .filter_map(|key| Some((*key, std::env::var_os(key)?))),
        )
        .stdin(listener)
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log));
    Ok(command)
}

fn process(child: &Child) -> io::Result<PidFd> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    // Its number means no other process before it is waited for, which only this thread's runtime does, later.
    Ok(PidFd::open(Pid::from_raw(pid))?)
}

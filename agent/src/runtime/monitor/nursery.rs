//! Where monitors come from: one small process of the agent's, `sbxlet nursery`, that has been started already, and
//! divides for each monitor. A fork takes a fraction of a millisecond, which a start of the program does not, and what
//! the program's start has written to memory (relocations, above all) is shared by all monitors.
//!
//! This is the agent's side; [`super::supervise`] has the other. A nursery ends with its agent, the monitors from it go on.

use super::MonitorError;
use super::request::{self, Request};
use super::title;
use crate::runtime::sys::pidfd::PidFd;
use crate::runtime::sys::tree::{Copy, Restrictions, restrict};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::TimeVal;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// What is passed on of the agent's environment: the search path, for runtimes of the command line.
const ENVIRONMENT: [&str; 1] = ["PATH"];
/// A division takes a millisecond, a start of the program some ten; seconds on a machine under heavy load.
const ANSWER_SECONDS: i64 = 30;

/// The agent's handle. Dropping it ends the process, and no monitor.
#[derive(Debug)]
pub struct Nursery {
    program: PathBuf,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    /// `None` only while it is dropped.
    socket: Option<OwnedFd>,
    process: Child,
}

impl Nursery {
    /// Of the program that has the subcommand `nursery`; the process is started when it is first needed.
    #[must_use]
    pub fn of(program: PathBuf) -> Self {
        Self {
            program,
            running: Mutex::new(None),
        }
    }

    /// Starts the process, so that the first monitor need not wait for it. Blocks for some ten milliseconds.
    ///
    /// # Errors
    /// [`MonitorError::Start`].
    pub fn warm_up(&self) -> Result<(), MonitorError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(self.start().map_err(|source| self.failed(source))?);
        }
        Ok(())
    }

    /// A new monitor for the folder `dir`, which listens on `listener` and writes to `log`. Blocks for about a
    /// millisecond, or as [`Self::warm_up`] does.
    ///
    /// # Errors
    /// [`MonitorError::Start`].
    pub(super) fn monitor(
        &self,
        dir: &Path,
        listener: &UnixListener,
        log: &File,
    ) -> Result<PidFd, MonitorError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Request { dir, listener, log };
        if let Some(nursery) = &*running {
            match nursery.ask(&request) {
                Ok(monitor) => return Ok(monitor),
                // It may have been killed. Nothing was started then, or nothing that would not be found.
                Err(error) => tracing::warn!(%error, "the process that monitors come from is started anew"),
            }
            *running = None;
        }
        let nursery = self.start().map_err(|source| self.failed(source))?;
        let monitor = nursery.ask(&request).map_err(|source| self.failed(source))?;
        *running = Some(nursery);
        Ok(monitor)
    }

    fn start(&self) -> io::Result<Running> {
        let kind = SockType::SeqPacket;
        let (own, its) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&own, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
        let program = locked(&self.program)?;
        let process = Command::new(format!("/proc/self/fd/{}", program.as_fd().as_raw_fd()))
            .arg0("sbxlet")
            .arg("nursery")
            .arg(OsStr::new(&title::room()))
            .current_dir("/")
            .env_clear()
            .envs(
                ENVIRONMENT
                    .iter()
                    .filter_map(|key| Some((*key, std::env::var_os(key)?))),
            )
            .stdin(Stdio::from(its))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Running {
            socket: Some(own),
            process,
        })
    }

    fn failed(&self, source: io::Error) -> MonitorError {
        MonitorError::Start {
            path: self.program.clone(),
            source,
        }
    }
}

/// The program where nobody can write to it, not even root through `/proc/PID/exe`: monitors become containers, and a
/// container's program may be one that reads or writes its own file.
fn locked(program: &Path) -> io::Result<Copy> {
    let copy = Copy::of(program, false)?;
    let read_only = Restrictions {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
    };
    restrict(copy.as_fd(), read_only, false)?;
    Ok(copy)
}

impl Running {
    fn ask(&self, request: &Request<'_>) -> io::Result<PidFd> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        request::send(socket, request)?;
        request::answer(socket).map(PidFd::from)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It would end by itself, now that nobody can ask it any more, unless it hangs.
        self.socket = None;
        let killed = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = killed {
            tracing::warn!(%error, "cannot end the process that monitors come from");
        }
    }
}

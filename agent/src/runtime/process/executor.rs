//! The last step of a native container: its program takes the place of our process. That happens when the
//! container is started, long after it was made, so its failure is told through a pipe, which the kernel
//! closes where it succeeds.
//!
//! libcontainer's own executor refuses programs that only their owner may execute, leaves SIGPIPE ignored as
//! Rust's runtime has set it, and tells failures to a log alone.

use super::PATIENCE;
use crate::runtime::sys::signal::restore_broken_pipe;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{AccessFlags, access, execv};
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is kept of a message; less than what a pipe takes without a reader.
const MAX_MESSAGE: u64 = 2_048;

/// Runs in the container. A clone writes to the same pipe.
#[derive(Debug, Clone)]
pub(super) struct ProgramExecutor {
    failure: Arc<File>,
}

/// The end of the pipe that stays here.
#[derive(Debug)]
pub(super) struct Verdict(File);

/// What came of the program's start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    Done,
    Failed(String),
    /// Nothing was heard in time.
    Unknown,
}

/// Both ends; neither survives execve(2).
pub(super) fn pair() -> io::Result<(ProgramExecutor, Verdict)> {
    let (reader, writer) = io::pipe()?;
    let failure = Arc::new(File::from(std::os::fd::OwnedFd::from(writer)));
    let verdict = File::from(std::os::fd::OwnedFd::from(reader));
    Ok((ProgramExecutor { failure }, Verdict(verdict)))
}

impl Verdict {
    /// Waits until the program runs or has failed to.
    pub(super) fn wait(mut self) -> io::Result<Start> {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(0) => return Ok(Start::Unknown),
            Ok(_) => {}
            Err(fault) => return Err(fault.into()),
        }
        let mut message = Vec::new();
        (&mut self.0).take(MAX_MESSAGE).read_to_end(&mut message)?;
        Ok(match String::from_utf8_lossy(&message).into_owned() {
            empty if empty.is_empty() => Start::Done,
            message => Start::Failed(message),
        })
    }
}

impl Executor for ProgramExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let refused = |why: String| ExecutorValidationError::ArgValidationError(why);
        let program = args(spec)
            .first()
            .ok_or_else(|| refused("nothing to run".to_owned()))?;
        match find(program, search_path(spec)) {
            Ok(_) => Ok(()),
            Err(fault) => Err(refused(format!("exec {program}: {}", fault.desc()))),
        }
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let Err(fault) = run(args(spec), search_path(spec));
        let program = args(spec).first().map_or("", String::as_str);
        let message = format!("exec {program}: {fault}");
        // Nobody else could be told; our end, with its code, follows in any case.
        let _ = (&*self.failure).write_all(message.as_bytes());
        Err(ExecutorError::Other(message))
    }
}

fn run(args: &[String], search: &str) -> io::Result<Infallible> {
    let program = args.first().ok_or(io::ErrorKind::InvalidInput)?;
    let program = CString::new(find(program, search)?.as_os_str().as_bytes())?;
    let args: Vec<CString> = args
        .iter()
        .map(|arg| CString::new(arg.as_bytes()))
        .collect::<Result<_, _>>()?;
    restore_broken_pipe()?;
    // Not execvp(3), which takes a file of no known form for a script.
    Ok(execv(&program, &args)?)
}

/// The program's file, for the user that we are by now.
fn find(program: &str, search: &str) -> Result<PathBuf, Errno> {
    let executable = |path: PathBuf| match access(&path, AccessFlags::X_OK) {
        Ok(()) if path.is_dir() => Err(Errno::EACCES),
        Ok(()) => Ok(path),
        Err(fault) => Err(fault),
    };
    if program.contains('/') {
        return executable(PathBuf::from(program));
    }
    let mut outcome = Err(Errno::ENOENT);
    for folder in search.split(':') {
        match executable(Path::new(folder).join(program)) {
            Ok(path) => return Ok(path),
            Err(Errno::EACCES) => outcome = Err(Errno::EACCES),
            Err(_) => {}
        }
    }
    outcome
}

fn args(spec: &Spec) -> &[String] {
    let process = spec.process().as_ref();
    process.and_then(|p| p.args().as_deref()).unwrap_or_default()
}

fn search_path(spec: &Spec) -> &str {
    let process = spec.process().as_ref();
    let env = process.and_then(|p| p.env().as_deref()).unwrap_or_default();
    env.iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default()
}

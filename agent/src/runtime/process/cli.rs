//! `runc`, and the runtimes that have its command line. Each step is one short-lived process.

use super::program;
use super::words::Words;
use super::{Container, Output, PATIENCE, Runtime, RuntimeError};
use crate::runtime::sys::pidfd::PidFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use proto::spec;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

/// One program, with its state below a folder.
pub(super) struct CommandLine {
    runtime: spec::Runtime,
    root: PathBuf,
    words: Words,
}

impl CommandLine {
    pub(super) fn new(runtime: spec::Runtime, root: &Path, log: &Path) -> Self {
        Self {
            runtime,
            root: root.to_owned(),
            words: Words::of(log),
        }
    }

    fn command(&self, step: &str) -> Command {
        let mut command = program::command(self.runtime);
        command
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(self.words.path())
            .args(["--log-format", "json", step]);
        command
    }

    fn run(&mut self, act: &'static str, container: &str, mut command: Command) -> Result<(), RuntimeError> {
        self.words.begin();
        let run = |source| RuntimeError::Run {
            program: self.runtime.to_string(),
            source,
        };
        let mut child = command.spawn().map_err(run)?;
        // Closes the container's pipes.
        drop(command);
        let status = match finish(&mut child).map_err(run)? {
            Some(status) => status,
            None => {
                return Err(RuntimeError::Hangs {
                    act,
                    container: container.to_owned(),
                    program: self.runtime.to_string(),
                });
            }
        };
        if status.success() {
            return Ok(());
        }
        let words = match self.words.last() {
            empty if empty.is_empty() => format!("{}: {status}", self.runtime),
            words => words,
        };
        Err(RuntimeError::Failed {
            act,
            container: container.to_owned(),
            words,
        })
    }
}

impl Runtime for CommandLine {
    fn create(&mut self, container: Container<'_>, output: Output) -> Result<Pid, RuntimeError> {
        let pid_file = self.root.join(format!("{}.pid", container.id));
        let mut command = self.command("create");
        command
            .arg("--bundle")
            .arg(container.bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(container.id)
            .stdout(output.stdout)
            .stderr(output.stderr);
        self.run("create", container.id, command)?;
        let read = |source| RuntimeError::Read {
            path: pid_file.clone(),
            source,
        };
        let text = std::fs::read_to_string(&pid_file).map_err(read)?;
        std::fs::remove_file(&pid_file).map_err(read)?;
        match text.trim().parse() {
            Ok(pid) => Ok(Pid::from_raw(pid)),
            Err(_) => Err(RuntimeError::Malformed { path: pid_file, text }),
        }
    }

    fn start(&mut self, id: &str) -> Result<(), RuntimeError> {
        let mut command = self.command("start");
        command.arg(id);
        self.run("start", id, command)
    }

    fn kill(&mut self, id: &str, signal: Signal) -> Result<(), RuntimeError> {
        let mut command = self.command("kill");
        command.arg(id).arg((signal as i32).to_string());
        self.run("signal", id, command)
    }

    fn delete(&mut self, id: &str) -> Result<(), RuntimeError> {
        let mut command = self.command("delete");
        command.args(["--force", id]);
        self.run("delete", id, command)
    }
}

/// `None`: it did not end in time, and was killed.
fn finish(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let process = PidFd::open(Pid::from_raw(pid))?;
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    if poll(&mut polled, timeout)? == 0 {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    child.wait().map(Some)
}

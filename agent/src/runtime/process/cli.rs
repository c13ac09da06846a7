//! `runc`, and the runtimes that have its command line. Each step is one short-lived process.
//!
//! `runc` and `crun` are this and nothing else; `runsc` runs its steps by it.

use super::program;
use super::words::Words;
use super::{Container, Exec, Output, PATIENCE, Runtime, RuntimeError};
use crate::runtime::sys::pidfd::PidFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use proto::spec;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// One program, with its state below a folder.
pub(super) struct CommandLine {
    runtime: spec::Runtime,
    root: PathBuf,
    /// Before each step.
    flags: Vec<String>,
    words: Words,
}

impl CommandLine {
    pub(super) fn new(runtime: spec::Runtime, flags: Vec<String>, root: &Path, log: &Path) -> Self {
        Self {
            runtime,
            root: root.to_owned(),
            flags,
            words: Words::of(log),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn command(&self, step: &str) -> Command {
        self.command_with(step, self.words.path())
    }

    fn command_with(&self, step: &str, log: &Path) -> Command {
        let mut command = program::command(self.runtime);
        command
            .args(&self.flags)
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(log)
            .args(["--log-format", "json", step]);
        command
    }

    /// What a step says on its standard output, within `patience`; less than what a pipe holds.
    pub(super) fn ask(
        &mut self,
        step: &'static str,
        container: &str,
        patience: Duration,
    ) -> Result<String, RuntimeError> {
        let mut command = self.command(step);
        let (mut reader, writer) = io::pipe().map_err(|source| self.not_run(source))?;
        command.arg(container).stdout(Stdio::from(writer));
        self.run(step, container, command, patience)?;
        let mut said = String::new();
        reader
            .read_to_string(&mut said)
            .map_err(|source| self.not_run(source))?;
        Ok(said)
    }

    /// With the output of a container that was not told of it before.
    pub(super) fn start_with(&mut self, id: &str, output: Option<Output>) -> Result<(), RuntimeError> {
        let mut command = self.command("start");
        command.arg(id);
        if let Some(output) = output {
            command.stdout(output.stdout).stderr(output.stderr);
        }
        self.run("start", id, command, PATIENCE)
    }

    fn not_run(&self, source: io::Error) -> RuntimeError {
        RuntimeError::Run {
            program: self.runtime.to_string(),
            source,
        }
    }

    fn run(
        &mut self,
        act: &'static str,
        container: &str,
        mut command: Command,
        patience: Duration,
    ) -> Result<(), RuntimeError> {
        self.words.begin();
        let mut child = command.spawn().map_err(|source| self.not_run(source))?;
        // Closes the container's pipes.
        drop(command);
        let status = match finish(&mut child, patience).map_err(|source| self.not_run(source))? {
            Some(status) => status,
            None => {
                return Err(RuntimeError::Hangs {
                    act,
                    container: container.to_owned(),
                    program: self.runtime.to_string(),
                    patience,
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
    fn create(&mut self, container: Container<'_>, output: Output) -> Result<Option<Pid>, RuntimeError> {
        let pid_file = self.root.join(format!("{}.pid", container.id));
        let mut command = self.command("create");
        // At its end, as `/dev/null` is. That itself is the host's, and crun would give it to the container's user.
        let (nothing, _) = io::pipe().map_err(|source| self.not_run(source))?;
        command
            .stdin(Stdio::from(nothing))
            .arg("--bundle")
            .arg(container.bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(container.id)
            .stdout(output.stdout)
            .stderr(output.stderr);
        self.run("create", container.id, command, PATIENCE)?;
        let read = |source| RuntimeError::Read {
            path: pid_file.clone(),
            source,
        };
        let text = std::fs::read_to_string(&pid_file).map_err(read)?;
        std::fs::remove_file(&pid_file).map_err(read)?;
        match text.trim().parse() {
            Ok(pid) => Ok(Some(Pid::from_raw(pid))),
            Err(_) => Err(RuntimeError::Malformed { path: pid_file, text }),
        }
    }

    fn start(&mut self, id: &str) -> Result<Option<Pid>, RuntimeError> {
        self.start_with(id, None)?;
        Ok(None)
    }

    fn kill(&mut self, id: &str, signal: Signal) -> Result<(), RuntimeError> {
        let mut command = self.command("kill");
        command.arg(id).arg((signal as i32).to_string());
        self.run("signal", id, command, PATIENCE)
    }

    fn exec(&mut self, exec: &Exec<'_>) -> Result<Command, RuntimeError> {
        let mut command = self.command_with("exec", exec.log);
        command
            .arg("--process")
            .arg(exec.process)
            .arg("--pid-file")
            .arg(exec.pid_file)
            .arg("--detach");
        if let Some(console) = exec.console {
            command.arg("--console-socket").arg(console);
        }
        command.arg(exec.id);
        Ok(command)
    }

    fn delete(&mut self, id: &str) -> Result<(), RuntimeError> {
        let mut command = self.command("delete");
        command.args(["--force", id]);
        self.run("delete", id, command, PATIENCE)
    }
}

/// `None`: it did not end in time, and was killed.
fn finish(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let process = PidFd::open(Pid::from_raw(pid))?;
    let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    if poll(&mut polled, timeout)? == 0 {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    child.wait().map(Some)
}

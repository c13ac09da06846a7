//! The built-in runtime: libcontainer in our own process. Owns what libcontainer does to it on the way.

use super::executor::{self, Start, Verdict};
use super::tenant::Tenant;
use super::words::{Listener, Words};
use super::{Container, Exec, Output, PATIENCE, Runtime, RuntimeError};
use crate::runtime::sys::pidfd::PidFd;
use libcontainer::container::Container as Handle;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "libcontainer";
/// Precedes what has failed in the container's own process.
const IN_CONTAINER: &str = "error in executing process : ";
const LOG_MODE: u32 = 0o600;

/// Keeps libcontainer's state below its root.
pub(super) struct Native {
    root: PathBuf,
    words: Words,
    made: BTreeMap<String, Made>,
}

struct Made {
    handle: Handle,
    pid: Pid,
    process: PidFd,
    /// Until it is started.
    verdict: Option<Verdict>,
}

impl Native {
    pub(super) fn open(root: &Path, log: &Path) -> Result<Self, RuntimeError> {
        listen(log)?;
        Ok(Self {
            root: root.to_owned(),
            words: Words::of(log),
            made: BTreeMap::new(),
        })
    }

    fn build(&self, container: Container<'_>, output: Output) -> Result<Made, RuntimeError> {
        let run = |source| RuntimeError::Run {
            program: PROGRAM.to_owned(),
            source,
        };
        let failed = |fault| self.failed("create", container.id, &fault);
        let (executor, verdict) = executor::pair().map_err(run)?;
        let stdin = File::open("/dev/null").map_err(run)?;
        let handle = ContainerBuilder::new(container.id.to_owned(), SyscallType::default())
            .with_executor(executor)
            .with_stdin(OwnedFd::from(stdin))
            .with_stdout(output.stdout)
            .with_stderr(output.stderr)
            .with_root_path(&self.root)
            .and_then(ContainerBuilder::validate_id)
            .map_err(failed)?
            .as_init(container.bundle)
            // It would hand our absolute cgroup to systemd, which knows nothing of it.
            .with_systemd(false)
            .build()
            .map_err(failed)?;
        let pid = handle.pid().ok_or_else(|| run(io::ErrorKind::NotFound.into()))?;
        // Its `nix` is of another version.
        let pid = Pid::from_raw(pid.as_raw());
        let process = PidFd::open(pid).map_err(|source| run(source.into()))?;
        Ok(Made {
            handle,
            pid,
            process,
            verdict: Some(verdict),
        })
    }

    fn failed(&self, act: &'static str, container: &str, fault: &LibcontainerError) -> RuntimeError {
        RuntimeError::Failed {
            act,
            container: container.to_owned(),
            words: explain(fault, &self.words),
        }
    }

    fn made(&mut self, act: &'static str, id: &str) -> Result<&mut Made, RuntimeError> {
        self.made.get_mut(id).ok_or_else(|| RuntimeError::Failed {
            act,
            container: id.to_owned(),
            words: "there is none".to_owned(),
        })
    }
}

/// Writes to `log` from now on what libcontainer has to say.
pub(super) fn listen(log: &Path) -> Result<(), RuntimeError> {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).mode(LOG_MODE).open(log);
    let file = file.map_err(|source| RuntimeError::Make {
        path: log.to_owned(),
        source,
    })?;
    // Only the first one of a process hears: a monitor has one runtime.
    let _ = tracing::subscriber::set_global_default(Listener::new(file));
    Ok(())
}

/// What was being done is in the innermost error, and why it failed often in the first event only.
pub(super) fn explain(fault: &LibcontainerError, words: &Words) -> String {
    let mut innermost: &dyn Error = fault;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let what = innermost.to_string();
    let what = match what.rsplit_once(IN_CONTAINER) {
        Some((_, what)) => what.to_owned(),
        None => what,
    };
    let events = words.errors();
    match events.first() {
        Some(why) if !why.contains(&what) => format!("{what}: {why}"),
        Some(_) | None => what,
    }
}

impl Runtime for Native {
    fn create(&mut self, container: Container<'_>, output: Output) -> Result<Option<Pid>, RuntimeError> {
        self.words.begin();
        let made = self.build(container, output)?;
        let pid = made.pid;
        self.made.insert(container.id.to_owned(), made);
        Ok(Some(pid))
    }

    fn start(&mut self, id: &str) -> Result<Option<Pid>, RuntimeError> {
        self.words.begin();
        let made = self.made("start", id)?;
        let verdict = made.verdict.take();
        let started = made.handle.start();
        started.map_err(|fault| self.failed("start", id, &fault))?;
        let Some(verdict) = verdict else {
            return Ok(None);
        };
        let start = verdict.wait().map_err(|source| RuntimeError::Run {
            program: PROGRAM.to_owned(),
            source,
        })?;
        match start {
            Start::Done => Ok(None),
            Start::Failed(words) => Err(RuntimeError::Failed {
                act: "start",
                container: id.to_owned(),
                words,
            }),
            Start::Unknown => Err(RuntimeError::Hangs {
                act: "start",
                container: id.to_owned(),
                program: PROGRAM.to_owned(),
                patience: PATIENCE,
            }),
        }
    }

    /// Not by libcontainer, which takes whatever it has signalled for stopped.
    fn kill(&mut self, id: &str, signal: Signal) -> Result<(), RuntimeError> {
        let made = self.made("signal", id)?;
        made.process
            .signal(signal)
            .map_err(|source| RuntimeError::Failed {
                act: "signal",
                container: id.to_owned(),
                words: source.desc().to_owned(),
            })
    }

    fn exec(&mut self, exec: &Exec<'_>) -> Result<Command, RuntimeError> {
        self.made("enter", exec.id)?;
        Ok(Tenant::of(&self.root, exec).command())
    }

    fn delete(&mut self, id: &str) -> Result<(), RuntimeError> {
        self.words.begin();
        let Some(made) = self.made.get_mut(id) else {
            return Ok(());
        };
        let deleted = made.handle.delete(true);
        deleted.map_err(|fault| self.failed("delete", id, &fault))?;
        self.made.remove(id);
        Ok(())
    }
}

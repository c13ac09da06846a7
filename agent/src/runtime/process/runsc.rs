//! `runsc`, the runtime of gVisor: a kernel in user space, one instance per sandbox, that all its containers
//! run in. The instance begins with a container of our own and ends with it, whatever becomes of the others.
//!
//! No process of a container is one of the host. What stands for a started container is its *gofer*, which
//! opens files for it: it ends when the last open file of the container is closed, which is when the container
//! ends, unless a container has handed an open file of its own to another one. How the container has ended is
//! asked then.

use super::cli::CommandLine;
use super::{Container, Exec, Instance, Output, Runtime, RuntimeError};
use crate::runtime::sys::wait::Ended;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use proto::spec;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What holds for all containers:
///
/// - their addresses are taken over by the instance's own network stack;
/// - their root is ours as it is, limits included, without one more layer in memory;
/// - capabilities and seccomp profiles are those of their specs;
/// - gofers have no network, and none that outlives them.
pub(super) const FLAGS: [&str; 5] = [
    "--network=sandbox",
    "--overlay2=none",
    "--net-raw=true",
    "--oci-seccomp=true",
    "--gofer-network-namespace=new",
];
/// The container that holds the instance. No name of a container begins like this.
pub const INSTANCE: &str = "_instance";
/// A container whose gofer has ended has ended itself, or is cut off from its files for good.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// Exit statuses above it are signals.
const SIGNALS: i32 = 128;
const MAX_SIGNAL: i32 = 64;

pub(super) struct Runsc {
    line: CommandLine,
    bundle: PathBuf,
    /// The instance was created, if only in part.
    is_begun: bool,
    /// Of those that were created and not started yet.
    outputs: BTreeMap<String, Output>,
    started: BTreeSet<String>,
}

impl Runsc {
    pub(super) fn new(instance: Instance<'_>, root: &Path, log: &Path) -> Self {
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).into();
        flags.push(format!("--platform={}", instance.platform));
        Self {
            line: CommandLine::new(spec::Runtime::Runsc, flags, root, log),
            bundle: instance.bundle.to_owned(),
            is_begun: false,
            outputs: BTreeMap::new(),
            started: BTreeSet::new(),
        }
    }

    /// Begins the instance, unless it was.
    fn begin(&mut self) -> Result<(), RuntimeError> {
        if self.is_begun {
            return Ok(());
        }
        self.is_begun = true;
        let bundle = self.bundle.clone();
        let instance = Container {
            id: INSTANCE,
            bundle: &bundle,
        };
        self.line.create(instance, nowhere()?)?;
        self.line.start_with(INSTANCE, None)
    }

    /// Where `runsc` keeps what it knows of a container.
    fn state_of(&self, id: &str) -> PathBuf {
        self.line.root().join(format!("{id}_sandbox:{INSTANCE}.state"))
    }

    fn gofer_of(&self, id: &str) -> Result<Pid, RuntimeError> {
        let path = self.state_of(id);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(RuntimeError::Read { path, source }),
        };
        let state: Value = serde_json::from_str(&text).unwrap_or_default();
        match state["goferPid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
            Some(pid) if pid > 0 => Ok(Pid::from_raw(pid)),
            Some(_) | None => Err(RuntimeError::Malformed {
                path,
                text: state["goferPid"].to_string(),
            }),
        }
    }
}

impl Runtime for Runsc {
    fn create(&mut self, container: Container<'_>, output: Output) -> Result<Option<Pid>, RuntimeError> {
        self.begin()?;
        // It asks for the output when the container is started, and what it calls its process is the instance.
        self.line.create(container, nowhere()?)?;
        self.outputs.insert(container.id.to_owned(), output);
        Ok(None)
    }

    fn start(&mut self, id: &str) -> Result<Option<Pid>, RuntimeError> {
        let output = self.outputs.remove(id);
        let started = self.line.start_with(id, output);
        match started.and_then(|()| self.gofer_of(id)) {
            Ok(gofer) => {
                self.started.insert(id.to_owned());
                Ok(Some(gofer))
            }
            Err(fault) => {
                // Else it would wait to be started again.
                self.delete(id)?;
                Err(fault)
            }
        }
    }

    fn kill(&mut self, id: &str, signal: Signal) -> Result<(), RuntimeError> {
        self.line.kill(id, signal)
    }

    /// What stands for the process on the host is a program that waits for it and ends as it has.
    fn exec(&mut self, exec: &Exec<'_>) -> Result<Command, RuntimeError> {
        if exec.console.is_some() {
            return Err(RuntimeError::Failed {
                act: "enter",
                container: exec.id.to_owned(),
                words: "with gVisor a command has no terminal: run it without one".to_owned(),
            });
        }
        self.line.exec(exec)
    }

    /// Of an instance that was killed nothing can be asked: what counts is that nothing is kept.
    fn delete(&mut self, id: &str) -> Result<(), RuntimeError> {
        self.outputs.remove(id);
        match self.line.delete(id) {
            Err(RuntimeError::Failed { .. }) if !self.state_of(id).exists() => Ok(()),
            done => done,
        }
    }

    fn ended(&mut self, id: &str, process: Ended) -> Ended {
        if !self.started.contains(id) {
            return process;
        }
        match self.line.ask("wait", id, END_PATIENCE) {
            Ok(said) => exit_status(&said).unwrap_or(Ended::Signal(Signal::SIGKILL as i32)),
            Err(fault) => {
                // The instance has ended with all that was in it, unless only this gofer was killed.
                if matches!(fault, RuntimeError::Hangs { .. })
                    && let Err(fault) = self.line.kill(id, Signal::SIGKILL)
                {
                    eprintln!("{fault}");
                }
                Ended::Signal(Signal::SIGKILL as i32)
            }
        }
    }

    fn close(&mut self) -> Result<(), RuntimeError> {
        if !self.is_begun {
            return Ok(());
        }
        self.delete(INSTANCE)?;
        // Sockets of an instance that was killed.
        let path = self.line.root();
        let remove = || -> io::Result<()> {
            for entry in std::fs::read_dir(path)? {
                std::fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        remove().map_err(|source| RuntimeError::Remove {
            path: path.to_owned(),
            source,
        })
    }
}

fn nowhere() -> Result<Output, RuntimeError> {
    let open = || {
        let path = PathBuf::from("/dev/null");
        let opened = File::options().write(true).open(&path);
        opened
            .map(OwnedFd::from)
            .map_err(|source| RuntimeError::Make { path, source })
    };
    Ok(Output {
        stdout: open()?,
        stderr: open()?,
    })
}

/// Of `{"id":"web","exitStatus":137}`. It tells what a shell would: a program that has itself exited with
/// 137 can't be told from one that was killed.
fn exit_status(said: &str) -> Option<Ended> {
    let said: Value = serde_json::from_str(said).ok()?;
    let status = i32::try_from(said["exitStatus"].as_i64()?).ok()?;
    Some(match status - SIGNALS {
        signal @ 1..=MAX_SIGNAL => Ended::Signal(signal),
        _ => Ended::Code(status),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_codes_or_signals() {
        #[track_caller]
        fn check(said: &str, want: Option<Ended>) {
            assert_eq!(exit_status(said), want, "{said}");
        }
        check("{\"id\":\"web\",\"exitStatus\":0}\n", Some(Ended::Code(0)));
        check("{\"id\":\"web\",\"exitStatus\":128}", Some(Ended::Code(128)));
        check("{\"id\":\"web\",\"exitStatus\":137}", Some(Ended::Signal(9)));
        check("{\"id\":\"web\",\"exitStatus\":255}", Some(Ended::Code(255)));
        check("{\"id\":\"web\"}", None);
        check("", None);
    }

    #[test]
    fn no_container_is_called_as_the_instance() {
        assert!(INSTANCE.parse::<proto::id::Name>().is_err());
    }
}

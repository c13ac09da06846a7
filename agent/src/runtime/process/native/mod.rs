//! The built-in runtime: containers of bundles that `runtime::bundle` renders, in namespaces and control groups, made by
//! the monitor itself. Each is one process, forked from the monitor, which prepares all of it, waits, and becomes the
//! container's program.
//!
//! | file | owns |
//! |---|---|
//! | `plan`, `process` | what a bundle asks for; pure |
//! | `init` | the course of a container's first process |
//! | `root`, `place` | the filesystem that it sees, and where in a stranger's files that is mounted |
//! | `privileges` | what a process gives up |
//! | `program` | the program that it becomes |
//! | `word` | word of how that went |
//! | `enter` | a further process, by a small program beside the monitor |
//! | `terminal` | the terminal of such a process |
//! | `fault` | what can fail in there |

mod enter;
mod fault;
mod init;
mod place;
mod plan;
mod privileges;
mod process;
mod program;
mod root;
mod terminal;
mod word;

pub use enter::{Enter, main as enter};

use super::{Container, Exec, Output, PATIENCE, Runtime, RuntimeError};
use crate::runtime::cgroup::Cgroups;
use crate::runtime::seccomp;
use crate::runtime::sys::clone::{Alone, CloneError};
use crate::runtime::sys::pidfd::PidFd;
use fault::Fault;
use init::Init;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use plan::Plan;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use word::{Hearer, Word};

const PROGRAM: &str = "the built-in runtime";

pub(super) struct Native {
    cgroups: Cgroups,
    made: BTreeMap<String, Made>,
}

struct Made {
    bundle: PathBuf,
    cgroup: PathBuf,
    pid: Pid,
    process: PidFd,
    hearer: Hearer,
    /// A byte there starts the program, its end ends the process; none once that is done.
    go: Option<File>,
}

impl Native {
    pub(super) fn new(cgroups: Cgroups) -> Self {
        Self {
            cgroups,
            made: BTreeMap::new(),
        }
    }

    /// Forks it, with its group made and limited before.
    fn fork(&self, bundle: &Path, output: Output) -> Result<Made, Broken> {
        let plan = Plan::of(&spec(bundle)?).map_err(Fault::from)?;
        let filter = plan.filter.map(|_| seccomp::compiled(bundle)).transpose();
        let filter = filter.map_err(Fault::from)?;
        let limited = self.cgroups.create_container(&plan.cgroup, &plan.limits);
        limited.map_err(Fault::from)?;
        let birthplace = self.cgroups.birthplace(&plan.cgroup).map_err(Fault::from)?;
        let (speaker, hearer) = word::pair()?;
        let (going, go) = io::pipe()?;
        let init = Init {
            plan: &plan,
            cgroups: &self.cgroups,
            is_in_group: birthplace.is_some(),
            filter,
            stdout: output.stdout,
            stderr: output.stderr,
            speaker,
            go: File::from(OwnedFd::from(going)),
        };
        let own = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS;
        let group = birthplace.as_ref().map(AsFd::as_fd);
        let mut go = Some(File::from(OwnedFd::from(go)));
        let pid = Alone::check()?.child(own, group, || {
            // It would never see the end of what it has open itself.
            go = None;
            init.run()
        })?;
        let process = PidFd::open(pid).map_err(io::Error::from)?;
        Ok(Made {
            bundle: bundle.to_owned(),
            cgroup: plan.cgroup,
            pid,
            process,
            hearer,
            go,
        })
    }

    fn made(&mut self, act: &'static str, id: &str) -> Result<&mut Made, RuntimeError> {
        self.made
            .get_mut(id)
            .ok_or_else(|| failed(act, id, "there is none".to_owned()))
    }
}

impl Made {
    fn create(&mut self, id: &str) -> Result<(), RuntimeError> {
        match self.hearer.next().map_err(broken)? {
            Word::Ready => Ok(()),
            Word::Failed(why) => Err(failed("create", id, why)),
            Word::Silence => Err(failed("create", id, "it was killed".to_owned())),
            Word::Hangs => Err(hangs("create", id)),
        }
    }

    fn start(&mut self, id: &str) -> Result<(), RuntimeError> {
        let Some(mut go) = self.go.take() else {
            return Err(failed("start", id, "it was started already".to_owned()));
        };
        match go.write_all(&[1]) {
            Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => {
                return Err(failed("start", id, "it was killed".to_owned()));
            }
            written => written.map_err(broken)?,
        }
        match self.hearer.next().map_err(broken)? {
            Word::Silence => Ok(()),
            Word::Failed(why) => Err(failed("start", id, why)),
            Word::Hangs | Word::Ready => Err(hangs("start", id)),
        }
    }
}

impl Runtime for Native {
    fn create(&mut self, container: Container<'_>, output: Output) -> Result<Option<Pid>, RuntimeError> {
        let forked = self.fork(container.bundle, output);
        let mut made = forked.map_err(|fault| match fault {
            Broken::Fault(fault) => failed("create", container.id, fault.to_string()),
            Broken::Clone(fault) => failed("create", container.id, fault.to_string()),
            Broken::Run(source) => broken(source),
        })?;
        let pid = made.pid;
        let created = made.create(container.id);
        // Also where it failed: what is there must be found when it is deleted.
        self.made.insert(container.id.to_owned(), made);
        created.map(|()| Some(pid))
    }

    fn start(&mut self, id: &str) -> Result<Option<Pid>, RuntimeError> {
        self.made("start", id)?.start(id).map(|()| None)
    }

    fn kill(&mut self, id: &str, signal: Signal) -> Result<(), RuntimeError> {
        let signalled = self.made("signal", id)?.process.signal(signal);
        signalled.map_err(|fault| failed("signal", id, fault.desc().to_owned()))
    }

    fn exec(&mut self, exec: &Exec<'_>) -> Result<Command, RuntimeError> {
        let made = self.made("enter", exec.id)?;
        Ok(Enter::of(made.pid, &made.bundle, exec).command())
    }

    fn delete(&mut self, id: &str) -> Result<(), RuntimeError> {
        let Some(made) = self.made.get(id) else {
            return Ok(());
        };
        let cgroup = &made.cgroup;
        let killed = match self.cgroups.processes(cgroup) {
            Ok(none) if none.is_empty() => Ok(()),
            Ok(_) | Err(_) => self.cgroups.kill(cgroup),
        };
        let removed = self.cgroups.remove(cgroup).into_iter().next();
        let failure = killed.err().or(removed);
        match failure {
            None => {
                self.made.remove(id);
                Ok(())
            }
            Some(fault) => Err(failed("delete", id, fault.to_string())),
        }
    }
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error(transparent)]
    Clone(#[from] CloneError),
    #[error(transparent)]
    Run(#[from] io::Error),
}

fn spec(bundle: &Path) -> Result<Spec, Fault> {
    let path = plan::config(bundle);
    let text = std::fs::read(&path).map_err(Fault::at("read", &path))?;
    serde_json::from_slice(&text).map_err(|source| Fault::Malformed { path, source })
}

fn failed(act: &'static str, id: &str, words: String) -> RuntimeError {
    RuntimeError::Failed {
        act,
        container: id.to_owned(),
        words,
    }
}

fn hangs(act: &'static str, id: &str) -> RuntimeError {
    RuntimeError::Hangs {
        act,
        container: id.to_owned(),
        program: PROGRAM.to_owned(),
        patience: PATIENCE,
    }
}

fn broken(source: io::Error) -> RuntimeError {
    RuntimeError::Run {
        program: PROGRAM.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;

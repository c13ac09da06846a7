//! A container's first process, from its beginning to its program: what it does before and after it is told to go.
//! Begins as the node's root in namespaces of its own, with the monitor's memory, and nobody in the container sees it.

use super::fault::Fault;
use super::plan::Plan;
use super::privileges::{Bounds, give_up, hand_over};
use super::word::Speaker;
use super::{program, root};
use crate::runtime::cgroup::Cgroups;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

/// What it gets from who has made it.
pub(super) struct Init<'a> {
    pub(super) plan: &'a Plan,
    pub(super) cgroups: &'a Cgroups,
    /// It has begun in the container's group.
    pub(super) is_in_group: bool,
    /// Instructions, where the plan has a filter.
    pub(super) filter: Option<Vec<u8>>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) speaker: Speaker,
    /// A byte there means to go, its end not to.
    pub(super) go: File,
}

impl Init<'_> {
    /// Gives the exit code, where there was no program to become.
    pub(super) fn run(mut self) -> i32 {
        let Err(fault) = self.course();
        self.speaker.failed(&fault);
        1
    }

    fn course(&mut self) -> Result<Infallible, Fault> {
        let user = self.prepare()?;
        self.speaker.ready()?;
        let told = self.go.read(&mut [0]).map_err(Fault::doing("hear when to go"))?;
        if told == 0 {
            // Whom it was made for is gone.
            return Err(Fault::doing("go")(Errno::ECANCELED));
        }
        let filter = self.filter.as_deref().zip(self.plan.filter);
        give_up(&Bounds {
            process: &self.plan.process,
            user,
            filter,
        })?;
        program::run(&self.plan.process)
    }

    /// Gives the user namespace, which is out of sight afterwards.
    fn prepare(&self) -> Result<Option<File>, Fault> {
        let plan = self.plan;
        setsid().map_err(Fault::doing("begin a session"))?;
        umask(Mode::empty());
        if !self.is_in_group {
            self.cgroups.join(&plan.cgroup)?;
        }
        if plan.own_cgroup_namespace {
            unshare(CloneFlags::CLONE_NEWCGROUP).map_err(Fault::doing("make a cgroup namespace"))?;
        }
        let user = plan.user.as_ref().map(|user| open(&user.path)).transpose()?;
        for (kind, path) in &plan.joined {
            setns(open(path)?, *kind).map_err(Fault::at("enter the namespace", path))?;
        }
        for (key, value) in &plan.sysctls {
            let path = Path::new("/proc/sys").join(key.replace('.', "/"));
            std::fs::write(&path, value).map_err(Fault::at("set", &path))?;
        }
        self.streams()?;
        root::enter(plan, self.cgroups)?;
        program::check(&plan.process)?;
        Ok(user)
    }

    fn streams(&self) -> Result<(), Fault> {
        let ids = self.plan.ids();
        for stream in [&self.stdout, &self.stderr] {
            hand_over(stream, &self.plan.process, ids)?;
        }
        let null = open(Path::new("/dev/null"))?;
        let connect = || {
            dup2_stdin(&null)?;
            dup2_stdout(&self.stdout)?;
            dup2_stderr(&self.stderr)
        };
        connect().map_err(Fault::doing("connect its standard streams"))
    }
}

fn open(path: &Path) -> Result<File, Fault> {
    File::open(path).map_err(Fault::at("open", path))
}

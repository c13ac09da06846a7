//! The control groups of sandboxes: `<parent>/<uid>` is a sandbox, and below it are a group per container
//! (made by the OCI runtime) and one for the monitor. Processes are in leaves only, as version 2 demands.
//!
//! | file | owns |
//! |---|---|
//! | `detect` | which version this machine has, and where |
//! | `v1` | a tree per controller |
//! | `v2` | the unified tree |
//! | `devices` | which devices a group of version 2 may open, as a program of the kernel's |
//! | `hybrid` | controllers of version 1 beside a unified tree that has none of use |
//! | `tree` | files and folders of one tree |
//! | `kill` | the end of all processes of a group |
//! | `prime` | a wait of the kernel, taken off the start of a sandbox |
//! | `oom` | notice of the kernel's having killed for want of memory |
//!
//! A path such as `/sandboxd/7` is absolute and the same in every tree, as `cgroupsPath` of the OCI spec is.
//! Everything here blocks, for at most the times that the constants of `kill` and `tree` name. Called by
//! `execute`, `observe` and the monitor.

mod detect;
mod devices;
mod error;
mod hybrid;
mod kill;
mod oom;
mod prime;
mod tree;
mod v1;
mod v2;

pub use error::CgroupError;
pub use oom::OomWatch;

use hybrid::Hybrid;
use nix::unistd::Pid;
use proto::id::Name;
use proto::units::Bytes;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use v1::Hierarchies;
use v2::Unified;

/// Which control groups a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    V1,
    V2,
    /// Controllers of version 1, and a unified tree beside them.
    Hybrid,
}

/// What a sandbox may use in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxLimits {
    pub memory: Bytes,
    /// Processes and threads; >= 1.
    pub pids: u64,
}

/// What a container may use, of a group that is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerLimits {
    pub memory: Bytes,
    /// Processes and threads; >= 1.
    pub pids: u64,
    pub cpu: CpuShare,
    /// Which devices may be opened; every other may not.
    pub devices: Vec<DeviceRule>,
}

/// Of the processors' time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuShare {
    /// Weight where there is too little for all: 1,024 for a core; 2 to 262,144.
    pub shares: u64,
    /// At most this in each period, both in microseconds; `None`: limited later, or not at all.
    pub quota: Option<(u64, u64)>,
}

/// Character devices of a major number, or the one with that minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    pub major: u32,
    pub minor: Option<u32>,
}

/// What a group and all below it use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Since it was made, in microseconds.
    pub cpu_usec: u64,
    /// At present; tmpfs and file cache included.
    pub memory_bytes: u64,
}

/// The control groups of this machine.
#[derive(Debug, Clone)]
pub struct Cgroups {
    trees: Trees,
}

#[derive(Debug, Clone)]
enum Trees {
    V1(Hierarchies),
    V2(Unified),
    Hybrid(Hybrid),
}

/// The group of a container, below that of its sandbox. The prefix keeps a container that is named
/// `monitor` or `cgroup.procs` apart from what is there already.
#[must_use]
pub fn of_container(sandbox: &Path, container: &Name) -> PathBuf {
    sandbox.join(format!("c-{container}"))
}

/// The group of the monitor, below that of its sandbox.
#[must_use]
pub fn of_monitor(sandbox: &Path) -> PathBuf {
    sandbox.join("monitor")
}

/// The group of the instance that all containers of a sandbox run in, below that of the sandbox, where its
/// runtime has such a thing; it is made by that.
#[must_use]
pub fn of_instance(sandbox: &Path) -> PathBuf {
    sandbox.join("instance")
}

impl Cgroups {
    /// Finds out what this machine has.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] where one that is needed is nowhere, else [`CgroupError::Read`].
    pub fn detect() -> Result<Self, CgroupError> {
        detect::detect().map(|trees| Self { trees })
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        match &self.trees {
            Trees::V1(_) => Mode::V1,
            Trees::V2(_) => Mode::V2,
            Trees::Hybrid(_) => Mode::Hybrid,
        }
    }

    /// Whether swap counts, so that it can be limited.
    #[must_use]
    pub fn swap_accounted(&self) -> bool {
        match &self.trees {
            Trees::V1(v1) => v1.swap_accounted(),
            Trees::V2(v2) => v2.swap_accounted(),
            Trees::Hybrid(hybrid) => hybrid.v1.swap_accounted(),
        }
    }

    /// Makes the group that all sandboxes of an agent are in, such as `/sandboxd`. Idempotent.
    ///
    /// # Errors
    /// [`CgroupError`] with the path and what could not be done there.
    pub fn prepare_parent(&self, parent: &Path) -> Result<(), CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.make(parent),
            Trees::V2(v2) => v2.make_inner(parent),
            Trees::Hybrid(hybrid) => hybrid.v1.make(parent),
        }
    }

    /// Makes the group of a sandbox, with that of its monitor, and limits it. Idempotent; undone where it fails.
    ///
    /// # Errors
    /// [`CgroupError`] with the path and what could not be done there.
    pub fn create(&self, path: &Path, limits: &SandboxLimits) -> Result<(), CgroupError> {
        let created = match &self.trees {
            Trees::V1(v1) | Trees::Hybrid(Hybrid { v1, .. }) => v1.create(path, limits),
            Trees::V2(v2) => v2.create(path, limits),
        };
        let created = created.and_then(|()| self.make(&of_monitor(path)));
        created.inspect_err(|_| {
            for fault in self.remove(path) {
                tracing::warn!(%fault, "cannot undo the creation of a cgroup");
            }
        })
    }

    /// Makes the group of a container, below that of its sandbox, and limits it. Idempotent.
    ///
    /// # Errors
    /// [`CgroupError`] with the path and what could not be done there.
    pub fn create_container(&self, path: &Path, limits: &ContainerLimits) -> Result<(), CgroupError> {
        match &self.trees {
            Trees::V1(v1) | Trees::Hybrid(Hybrid { v1, .. }) => v1.create_container(path, limits),
            Trees::V2(v2) => v2.create_container(path, limits),
        }
    }

    /// The group as the kernel lets a process begin in it: without the wait that moving it there takes. `None` on
    /// version 1, where it must [`Self::join`], which waits for nobody there.
    ///
    /// # Errors
    /// [`CgroupError::Read`] where there is no such group.
    pub fn birthplace(&self, path: &Path) -> Result<Option<File>, CgroupError> {
        match &self.trees {
            Trees::V1(_) | Trees::Hybrid(_) => Ok(None),
            Trees::V2(v2) => v2.open(path).map(Some),
        }
    }

    /// What a container is shown of its own groups: the controllers of each tree, such as `cpu,cpuacct`, by which
    /// mount(2) knows it; none: the unified one.
    #[must_use]
    pub fn trees_for_containers(&self) -> Vec<String> {
        match &self.trees {
            Trees::V1(v1) | Trees::Hybrid(Hybrid { v1, .. }) => v1.used(),
            Trees::V2(_) => Vec::new(),
        }
    }

    /// Called some milliseconds before an OCI runtime, or [`Self::add_process`], moves a process, and aside from it,
    /// this makes that fast. Takes up to some 30 ms where no process was moved of late, and changes nothing.
    pub fn prime(&self) {
        let primed = match &self.trees {
            Trees::V1(v1) => v1.prime(),
            Trees::V2(v2) => v2.prime(),
            Trees::Hybrid(hybrid) => hybrid.v1.prime(),
        };
        if let Err(fault) = primed {
            tracing::debug!(%fault, "the next start of a sandbox takes some milliseconds more");
        }
    }

    fn make(&self, path: &Path) -> Result<(), CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.make(path),
            Trees::V2(v2) => v2.make(path),
            Trees::Hybrid(hybrid) => hybrid.v1.make(path),
        }
    }

    /// Moves a process into the group, which must be there: one that was removed must not come back with a process
    /// that is late. On version 2 the group must be a leaf.
    ///
    /// # Errors
    /// [`CgroupError::Write`] where the group is not there, the process has ended, or the kernel refuses.
    pub fn add_process(&self, path: &Path, pid: Pid) -> Result<(), CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.add_process(path, pid),
            Trees::V2(v2) => v2.add_process(path, pid),
            Trees::Hybrid(hybrid) => hybrid.v1.add_process(path, pid),
        }
    }

    /// The processes in the group and below. A group that is not there has none.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn processes(&self, path: &Path) -> Result<Vec<Pid>, CgroupError> {
        match self.roots().first() {
            Some(root) => tree::processes(&tree::at(root, path)?),
            None => Ok(Vec::new()),
        }
    }

    /// Moves the calling process, which has one thread, into the group. On version 1 that is fast at any time, which
    /// [`Self::add_process`] is not.
    ///
    /// # Errors
    /// [`CgroupError::Write`] where the kernel refuses.
    pub fn join(&self, path: &Path) -> Result<(), CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.join(path),
            Trees::V2(v2) => v2.join(path),
            Trees::Hybrid(hybrid) => hybrid.v1.join(path),
        }
    }

    /// Limits the cpu time in each period, both in microseconds and > 0.
    ///
    /// # Errors
    /// [`CgroupError::Write`] where there is no such group, or the kernel refuses.
    pub fn limit_cpu(&self, path: &Path, quota_us: u64, period_us: u64) -> Result<(), CgroupError> {
        match &self.trees {
            Trees::V1(v1) | Trees::Hybrid(Hybrid { v1, .. }) => v1.limit_cpu(path, quota_us, period_us),
            Trees::V2(v2) => v2.limit_cpu(path, quota_us, period_us),
        }
    }

    /// Whether [`Self::join`] waits as a move does, unless it was primed.
    #[must_use]
    pub fn joining_waits(&self) -> bool {
        match &self.trees {
            Trees::V1(_) | Trees::Hybrid(_) => false,
            Trees::V2(_) => true,
        }
    }

    /// Kills all processes in the group and below, and returns once they have ended. A group that is not
    /// there has none.
    ///
    /// # Errors
    /// [`CgroupError::Alive`] where some did not end in time, else what could not be done.
    pub fn kill(&self, path: &Path) -> Result<(), CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.kill(path),
            Trees::V2(v2) => v2.kill(path),
            Trees::Hybrid(hybrid) => hybrid.kill(path),
        }
    }

    /// Removes the group with all below it, in every tree, once their processes have ended. Nothing there
    /// is fine.
    #[must_use]
    pub fn remove(&self, path: &Path) -> Vec<CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.remove(path),
            Trees::V2(v2) => v2.remove(path),
            Trees::Hybrid(hybrid) => hybrid.remove(path),
        }
    }

    /// The names of the groups right below `parent`, in any tree, sorted. A parent that is not there has none.
    ///
    /// # Errors
    /// [`CgroupError::Read`].
    pub fn children(&self, parent: &Path) -> Result<Vec<String>, CgroupError> {
        let mut names = BTreeSet::new();
        for root in self.roots() {
            names.extend(tree::children(&tree::at(root, parent)?)?);
        }
        Ok(names.into_iter().collect())
    }

    /// How many processes of the group the kernel has killed for want of memory; on version 2 also those
    /// below it.
    ///
    /// # Errors
    /// [`CgroupError::Read`] where there is no such group, [`CgroupError::Malformed`] before Linux 4.13.
    pub fn oom_kills(&self, path: &Path) -> Result<u64, CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.oom_kills(path),
            Trees::V2(v2) => v2.oom_kills(path),
            Trees::Hybrid(hybrid) => hybrid.v1.oom_kills(path),
        }
    }

    /// Notice of [`Self::oom_kills`], from now on.
    ///
    /// # Errors
    /// [`CgroupError::Watch`] where there is no such group.
    pub fn watch_oom(&self, path: &Path) -> Result<OomWatch, CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.watch_oom(path),
            Trees::V2(v2) => v2.watch_oom(path),
            Trees::Hybrid(hybrid) => hybrid.v1.watch_oom(path),
        }
    }

    /// # Errors
    /// [`CgroupError::Read`] where there is no such group.
    pub fn usage(&self, path: &Path) -> Result<Usage, CgroupError> {
        match &self.trees {
            Trees::V1(v1) => v1.usage(path),
            Trees::V2(v2) => v2.usage(path),
            Trees::Hybrid(hybrid) => hybrid.v1.usage(path),
        }
    }

    fn roots(&self) -> Vec<&Path> {
        match &self.trees {
            Trees::V1(v1) => v1.roots().collect(),
            Trees::V2(v2) => vec![v2.root()],
            Trees::Hybrid(hybrid) => hybrid.roots().collect(),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        })
    }
}

#[cfg(test)]
mod tests;

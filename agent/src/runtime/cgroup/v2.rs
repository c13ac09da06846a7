//! Version 2: one tree. A group hands controllers on to those below it, and then has no processes itself.

use super::kill::{self, Freezer, Quota};
use super::oom::OomWatch;
use super::{CgroupError, ContainerLimits, SandboxLimits, Usage, devices, prime, tree};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

const NEEDED: [&str; 3] = ["memory", "cpu", "pids"];
/// Handed on as well where they are there: a runtime may want to use them.
const OPTIONAL: [&str; 2] = ["cpuset", "io"];
const AVAILABLE: &str = "cgroup.controllers";
const HANDED_ON: &str = "cgroup.subtree_control";
const KILL: &str = "cgroup.kill";
const MEMORY_MAX: &str = "memory.max";
const SWAP_MAX: &str = "memory.swap.max";
const MEMORY_EVENTS: &str = "memory.events";

/// The unified tree.
#[derive(Debug, Clone)]
pub(super) struct Unified {
    root: PathBuf,
}

impl Unified {
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The first controller that is needed and not there.
    pub(super) fn missing(&self) -> Result<Option<&'static str>, CgroupError> {
        let available = names(&self.root, AVAILABLE)?;
        Ok(NEEDED.into_iter().find(|c| !available.contains(*c)))
    }

    /// Known once there is a group below the root that has memory limits; the root itself has none.
    pub(super) fn swap_accounted(&self) -> bool {
        let groups = tree::children(&self.root).unwrap_or_default();
        groups
            .iter()
            .any(|group| self.root.join(group).join(SWAP_MAX).exists())
    }

    /// Makes the group and those above it, all of which hand on their controllers.
    pub(super) fn make_inner(&self, path: &Path) -> Result<(), CgroupError> {
        self.make(path)?;
        hand_on(&tree::at(&self.root, path)?)
    }

    /// Makes the group, and hands controllers down to it.
    pub(super) fn make(&self, path: &Path) -> Result<(), CgroupError> {
        let mut above = self.root.clone();
        for folder in tree::down_to(&self.root, path)? {
            hand_on(&above)?;
            tree::make(&folder)?;
            above = folder;
        }
        Ok(())
    }

    pub(super) fn create(&self, path: &Path, limits: &SandboxLimits) -> Result<(), CgroupError> {
        self.make(path)?;
        let folder = tree::at(&self.root, path)?;
        tree::write(&folder, MEMORY_MAX, &limits.memory.0.to_string())?;
        if folder.join(SWAP_MAX).exists() {
            tree::write(&folder, SWAP_MAX, "0")?;
        }
        tree::write(&folder, "pids.max", &limits.pids.to_string())?;
        hand_on(&folder)
    }

    pub(super) fn create_container(&self, path: &Path, limits: &ContainerLimits) -> Result<(), CgroupError> {
        self.make(path)?;
        let folder = tree::at(&self.root, path)?;
        tree::write(&folder, MEMORY_MAX, &limits.memory.0.to_string())?;
        if folder.join(SWAP_MAX).exists() {
            tree::write(&folder, SWAP_MAX, "0")?;
        }
        tree::write(&folder, "cpu.weight", &weight(limits.cpu.shares).to_string())?;
        if let Some((quota_us, period_us)) = limits.cpu.quota {
            self.limit_cpu(path, quota_us, period_us)?;
        }
        tree::write(&folder, "pids.max", &limits.pids.to_string())?;
        devices::allow_only(&folder, &limits.devices)
    }

    pub(super) fn open(&self, path: &Path) -> Result<File, CgroupError> {
        let path = tree::at(&self.root, path)?;
        File::open(&path).map_err(|source| CgroupError::Read { path, source })
    }

    pub(super) fn add_process(&self, path: &Path, pid: Pid) -> Result<(), CgroupError> {
        tree::write(&tree::at(&self.root, path)?, tree::PROCS, &pid.to_string())
    }

    /// Threads can't be moved one by one here.
    pub(super) fn join(&self, path: &Path) -> Result<(), CgroupError> {
        self.add_process(path, Pid::from_raw(0))
    }

    pub(super) fn limit_cpu(&self, path: &Path, quota_us: u64, period_us: u64) -> Result<(), CgroupError> {
        let limit = format!("{quota_us} {period_us}");
        tree::write(&tree::at(&self.root, path)?, "cpu.max", &limit)
    }

    pub(super) fn prime(&self) -> Result<(), CgroupError> {
        prime::prime(&self.root, None)
    }

    /// In one step since Linux 5.14.
    pub(super) fn kill(&self, path: &Path) -> Result<(), CgroupError> {
        let folder = tree::at(&self.root, path)?;
        if folder.join(KILL).exists() {
            return kill::in_one_step(path, &folder, KILL);
        }
        kill::by_signal(
            path,
            std::slice::from_ref(&folder),
            &Freezer::V2(folder.clone()),
            &Quota::V2(folder.clone()),
        )
    }

    pub(super) fn remove(&self, path: &Path) -> Vec<CgroupError> {
        match tree::at(&self.root, path) {
            Ok(folder) => tree::remove(&[folder]),
            Err(fault) => vec![fault],
        }
    }

    pub(super) fn oom_kills(&self, path: &Path) -> Result<u64, CgroupError> {
        tree::number(&tree::at(&self.root, path)?, MEMORY_EVENTS, "oom_kill")
    }

    pub(super) fn watch_oom(&self, path: &Path) -> Result<OomWatch, CgroupError> {
        OomWatch::v2(tree::at(&self.root, path)?.join(MEMORY_EVENTS))
    }

    pub(super) fn usage(&self, path: &Path) -> Result<Usage, CgroupError> {
        let folder = tree::at(&self.root, path)?;
        Ok(Usage {
            cpu_usec: tree::number(&folder, "cpu.stat", "usage_usec")?,
            memory_bytes: tree::single(&folder, "memory.current")?,
        })
    }
}

/// The shares of version 1, 2 to 262,144, on version 2's scale of 1 to 10,000; as the OCI runtimes do.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Lets the groups below `folder` have what they need.
fn hand_on(folder: &Path) -> Result<(), CgroupError> {
    let available = names(folder, AVAILABLE)?;
    let handed_on = names(folder, HANDED_ON)?;
    let wanted = NEEDED.iter().chain(&OPTIONAL).copied();
    let missing: Vec<String> = wanted
        .filter(|c| available.contains(*c) && !handed_on.contains(*c))
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    match tree::write(folder, HANDED_ON, &missing.join(" ")) {
        Err(CgroupError::Write { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
            Err(CgroupError::Occupied {
                path: folder.to_owned(),
                controllers: missing.join(" "),
            })
        }
        written => written,
    }
}

fn names(folder: &Path, file: &str) -> Result<BTreeSet<String>, CgroupError> {
    let text = tree::read(folder, file)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

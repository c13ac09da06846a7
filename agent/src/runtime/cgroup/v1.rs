//! Version 1: a tree per controller, or per a few. A group of ours is a folder of one name in each of them.

use super::kill::{self, Freezer, Quota};
use super::oom::OomWatch;
use super::{CgroupError, ContainerLimits, DeviceRule, SandboxLimits, Usage, prime, tree};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};

pub(super) const MEMORY: &str = "memory";
const CPU: &str = "cpu";
const CPUACCT: &str = "cpuacct";
const PIDS: &str = "pids";
const DEVICES: &str = "devices";
const CPUSET: &str = "cpuset";
const FREEZER: &str = "freezer";
/// The first six are needed, the others are used where they are there.
const USED: [&str; 8] = [MEMORY, CPU, CPUACCT, PIDS, DEVICES, FREEZER, "blkio", CPUSET];
const NEEDED: usize = 6;

const LIMIT: &str = "memory.limit_in_bytes";
const LIMIT_WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
const HIERARCHICAL: &str = "memory.use_hierarchy";
const OOM_CONTROL: &str = "memory.oom_control";
/// What a new group does not inherit, and cannot have a process without.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// Threads, one by one.
const THREADS: &str = "tasks";
const NS_PER_USEC: u64 = 1_000;

/// One tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// `cpu`, or `name=systemd` where it has none; at least one.
    pub(super) controllers: Vec<String>,
    pub(super) root: PathBuf,
}

/// All trees of this machine.
#[derive(Debug, Clone)]
pub(super) struct Hierarchies {
    all: Vec<Hierarchy>,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    fn is_used(&self) -> bool {
        USED.iter().any(|controller| self.has(controller))
    }

    /// Makes one group, in a state to have processes.
    fn make(&self, folder: &Path) -> Result<(), CgroupError> {
        tree::make(folder)?;
        if self.has(CPUSET) {
            inherit_cpuset(folder)?;
        }
        if self.has(MEMORY) {
            count_below(folder)?;
        }
        Ok(())
    }
}

impl Hierarchies {
    pub(super) fn new(all: Vec<Hierarchy>) -> Self {
        Self { all }
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.all.iter().any(|h| h.has(controller))
    }

    /// The first controller that is needed and not there.
    pub(super) fn missing(&self) -> Option<&'static str> {
        USED[..NEEDED].iter().find(|c| !self.has(c)).copied()
    }

    /// Also of trees that are not used: an OCI runtime makes groups in all.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.all.iter().map(|h| h.root.as_path())
    }

    pub(super) fn swap_accounted(&self) -> bool {
        self.root_of(MEMORY)
            .is_ok_and(|root| root.join(LIMIT_WITH_SWAP).exists())
    }

    /// Makes the group and those above it in every tree that is used.
    pub(super) fn make(&self, path: &Path) -> Result<(), CgroupError> {
        for hierarchy in self.all.iter().filter(|h| h.is_used()) {
            for folder in tree::down_to(&hierarchy.root, path)? {
                hierarchy.make(&folder)?;
            }
        }
        Ok(())
    }

    /// Makes the group in every tree that is used, below one that is there; where that is not, as [`Self::make`].
    pub(super) fn make_below(&self, path: &Path) -> Result<(), CgroupError> {
        for hierarchy in self.all.iter().filter(|h| h.is_used()) {
            match hierarchy.make(&tree::at(&hierarchy.root, path)?) {
                Err(fault) if fault.is_missing() => return self.make(path),
                made => made?,
            }
        }
        Ok(())
    }

    pub(super) fn create(&self, path: &Path, limits: &SandboxLimits) -> Result<(), CgroupError> {
        self.make_below(path)?;
        let memory = self.group(MEMORY, path)?;
        let limit = limits.memory.0.to_string();
        tree::write(&memory, LIMIT, &limit)?;
        // Memory and swap together at the same limit: no swap.
        if self.swap_accounted() {
            tree::write(&memory, LIMIT_WITH_SWAP, &limit)?;
        }
        tree::write(&self.group(PIDS, path)?, "pids.max", &limits.pids.to_string())
    }

    pub(super) fn create_container(&self, path: &Path, limits: &ContainerLimits) -> Result<(), CgroupError> {
        self.make_below(path)?;
        let memory = self.group(MEMORY, path)?;
        let limit = limits.memory.0.to_string();
        tree::write(&memory, LIMIT, &limit)?;
        if self.swap_accounted() {
            tree::write(&memory, LIMIT_WITH_SWAP, &limit)?;
        }
        tree::write(
            &self.group(CPU, path)?,
            "cpu.shares",
            &limits.cpu.shares.to_string(),
        )?;
        if let Some((quota_us, period_us)) = limits.cpu.quota {
            self.limit_cpu(path, quota_us, period_us)?;
        }
        tree::write(&self.group(PIDS, path)?, "pids.max", &limits.pids.to_string())?;
        let devices = self.group(DEVICES, path)?;
        tree::write(&devices, "devices.deny", "a")?;
        // Anything may be made a node, as Docker has it, and not be opened.
        let make = ["c *:* m", "b *:* m"].map(str::to_owned);
        let open = limits.devices.iter().map(|DeviceRule { major, minor }| {
            let minor = minor.map_or("*".to_owned(), |minor| minor.to_string());
            format!("c {major}:{minor} rwm")
        });
        for rule in make.into_iter().chain(open) {
            tree::write(&devices, "devices.allow", &rule)?;
        }
        Ok(())
    }

    /// The controllers of each tree that is used.
    pub(super) fn used(&self) -> Vec<String> {
        let used = self.all.iter().filter(|h| h.is_used());
        used.map(|h| h.controllers.join(",")).collect()
    }

    pub(super) fn add_process(&self, path: &Path, pid: Pid) -> Result<(), CgroupError> {
        self.add(path, tree::PROCS, &pid.to_string())
    }

    /// Unlike the move of a process, that of the calling thread waits for nobody.
    pub(super) fn join(&self, path: &Path) -> Result<(), CgroupError> {
        self.add(path, THREADS, "0")
    }

    fn add(&self, path: &Path, file: &str, who: &str) -> Result<(), CgroupError> {
        for hierarchy in self.all.iter().filter(|h| h.is_used()) {
            tree::write(&tree::at(&hierarchy.root, path)?, file, who)?;
        }
        Ok(())
    }

    pub(super) fn limit_cpu(&self, path: &Path, quota_us: u64, period_us: u64) -> Result<(), CgroupError> {
        let group = self.group(CPU, path)?;
        tree::write(&group, "cpu.cfs_period_us", &period_us.to_string())?;
        tree::write(&group, "cpu.cfs_quota_us", &quota_us.to_string())
    }

    pub(super) fn prime(&self) -> Result<(), CgroupError> {
        prime::prime(self.root_of(PIDS)?, Some(PIDS))
    }

    pub(super) fn kill(&self, path: &Path) -> Result<(), CgroupError> {
        kill::by_signal(
            path,
            &self.groups(path)?,
            &self.freezer(path)?,
            &self.quota(path)?,
        )
    }

    pub(super) fn quota(&self, path: &Path) -> Result<Quota, CgroupError> {
        self.group(CPU, path).map(Quota::V1)
    }

    pub(super) fn freezer(&self, path: &Path) -> Result<Freezer, CgroupError> {
        self.group(FREEZER, path).map(Freezer::V1)
    }

    /// The group in every tree.
    pub(super) fn groups(&self, path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
        self.roots().map(|root| tree::at(root, path)).collect()
    }

    pub(super) fn remove(&self, path: &Path) -> Vec<CgroupError> {
        match self.groups(path) {
            Ok(groups) => tree::remove(&groups),
            Err(fault) => vec![fault],
        }
    }

    pub(super) fn oom_kills(&self, path: &Path) -> Result<u64, CgroupError> {
        tree::number(&self.group(MEMORY, path)?, OOM_CONTROL, "oom_kill")
    }

    pub(super) fn watch_oom(&self, path: &Path) -> Result<OomWatch, CgroupError> {
        OomWatch::v1(self.group(MEMORY, path)?.join(OOM_CONTROL))
    }

    pub(super) fn usage(&self, path: &Path) -> Result<Usage, CgroupError> {
        let cpu = tree::single(&self.group(CPUACCT, path)?, "cpuacct.usage")?;
        let memory = tree::single(&self.group(MEMORY, path)?, "memory.usage_in_bytes")?;
        Ok(Usage {
            cpu_usec: cpu / NS_PER_USEC,
            memory_bytes: memory,
        })
    }

    fn group(&self, controller: &'static str, path: &Path) -> Result<PathBuf, CgroupError> {
        tree::at(self.root_of(controller)?, path)
    }

    fn root_of(&self, controller: &'static str) -> Result<&Path, CgroupError> {
        let hierarchy = self.all.iter().find(|h| h.has(controller));
        hierarchy
            .map(|h| h.root.as_path())
            .ok_or(CgroupError::NoController {
                controller,
                mode: "v1",
            })
    }
}

/// Gives the group in `folder` the cpus and memory nodes of the one above, unless it has some.
fn inherit_cpuset(folder: &Path) -> Result<(), CgroupError> {
    let Some(parent) = folder.parent() else {
        return Ok(());
    };
    for file in CPUSET_FILES {
        if tree::read(folder, file)?.trim().is_empty() {
            tree::write(folder, file, tree::read(parent, file)?.trim())?;
        }
    }
    Ok(())
}

/// Lets a group's limit hold for those below it, too; newer kernels know nothing else.
fn count_below(folder: &Path) -> Result<(), CgroupError> {
    if folder.join(HIERARCHICAL).exists() && tree::read(folder, HIERARCHICAL)?.trim() == "0" {
        tree::write(folder, HIERARCHICAL, "1")?;
    }
    Ok(())
}

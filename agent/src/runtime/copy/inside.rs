//! The way into a container that runs: finds its first process, and takes its root directory and user namespace. The
//! container is hostile, and may end at any moment: its process is held by its folder in `/proc`, which never comes to
//! mean another process.

use crate::runtime::cgroup::{CgroupError, Cgroups};
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What root needs to work on files of others; a container may keep less for itself.
const CAPABILITIES: [Capability; 4] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
];
/// `/proc/<pid>/status` has some 60 lines.
const MAX_STATUS: u64 = 16 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum InsideError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("container {0} does not run, and its files are seen only while it does")]
    Ended(String),
    #[error("cannot {act} of container {container}: {}", .source.desc())]
    Enter {
        act: &'static str,
        container: String,
        source: Errno,
    },
    #[error("cannot give up capabilities: {0}")]
    Capabilities(caps::errors::CapsError),
}

/// The first process of a container.
#[derive(Debug)]
pub(super) struct Inside {
    container: String,
    proc: OwnedFd,
}

impl Inside {
    /// # Errors
    /// [`InsideError::Ended`] where it does not run.
    pub(super) fn find(cgroups: &Cgroups, cgroup: &Path, container: &str) -> Result<Self, InsideError> {
        let found = cgroups
            .processes(cgroup)?
            .into_iter()
            .find_map(first_of_its_namespace);
        match found {
            Some(proc) => Ok(Self {
                container: container.to_owned(),
                proc,
            }),
            None => Err(InsideError::Ended(container.to_owned())),
        }
    }

    /// Its root directory, with all that is mounted below it.
    ///
    /// # Errors
    /// [`InsideError::Ended`], [`InsideError::Enter`]
    pub(super) fn root(&self) -> Result<tree::Folder, InsideError> {
        tree::Folder::at(&self.proc, Path::new("root")).map_err(|source| self.fault("open the root", source))
    }

    /// Makes this process, which has one thread, root in the container's user namespace, with the means to work on
    /// files and no others.
    ///
    /// # Errors
    /// [`InsideError`]
    pub(super) fn become_root(&self) -> Result<(), InsideError> {
        let own = namespace(Path::new("/proc/self/ns/user"));
        let own = own.map_err(|source| self.fault("compare the user namespace", source))?;
        let theirs = openat(
            &self.proc,
            "ns/user",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let theirs = theirs.map_err(|source| self.fault("open the user namespace", source))?;
        let same = fstat(&theirs).map(|stat| (stat.st_dev, stat.st_ino) == own);
        if !same.map_err(|source| self.fault("compare the user namespace", source))? {
            enter(theirs).map_err(|source| self.fault("enter the user namespace", source))?;
        }
        let kept = CapsHashSet::from(CAPABILITIES);
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &kept).map_err(InsideError::Capabilities)?;
        }
        Ok(())
    }

    fn fault(&self, act: &'static str, source: Errno) -> InsideError {
        match source {
            Errno::ESRCH | Errno::ENOENT => InsideError::Ended(self.container.clone()),
            source => InsideError::Enter {
                act,
                container: self.container.clone(),
                source,
            },
        }
    }
}

fn enter(user: OwnedFd) -> Result<(), Errno> {
    setns(user, CloneFlags::CLONE_NEWUSER)?;
    setgroups(&[])?;
    let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group)?;
    setresuid(user, user, user)
}

fn namespace(path: &Path) -> Result<(libc::dev_t, libc::ino_t), Errno> {
    nix::sys::stat::stat(path).map(|stat| (stat.st_dev, stat.st_ino))
}

/// The process' folder in `/proc`, where it is the first one of a pid namespace right below ours. What it starts may
/// have root directories of its own.
fn first_of_its_namespace(pid: Pid) -> Option<OwnedFd> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let proc = nix::fcntl::open(&folder, flags, Mode::empty()).ok()?;
    let status = openat(&proc, "status", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(status)
        .take(MAX_STATUS)
        .read_to_string(&mut text)
        .ok()?;
    is_first(&text).then_some(proc)
}

fn is_first(status: &str) -> bool {
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let mut pids = pids.unwrap_or_default().split_whitespace().skip(1);
    pids.next() == Some("1") && pids.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_process_is_told_by_its_numbers() {
        for (status, want) in [
            ("Name:\tsh\nNSpid:\t4711\t1\nNSpgid:\t4711\t1\n", true),
            ("Name:\tsh\nNSpid:\t4711\t12\n", false),
            ("Name:\tsh\nNSpid:\t4711\t12\t1\n", false),
            ("Name:\tsh\nNSpid:\t4711\n", false),
            ("Name:\tsh\nNSpid:\t1\n", false),
            ("", false),
        ] {
            assert_eq!(is_first(status), want, "{status:?}");
        }
    }
}

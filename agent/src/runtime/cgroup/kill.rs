//! The end of all processes of a group, however fast they fork: in one step where the kernel offers it, else
//! by freezing, signalling and thawing until none is left. Waits for what the kernel announces.

use super::{CgroupError, tree};
use crate::runtime::sys::pidfd::PidFd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// SIGKILL ends a process at once, unless it is within the kernel waiting for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Processes that are waited for at a time: each takes a file descriptor, of which there may be 1,024.
const AT_ONCE: usize = 512;
const EVENTS: &str = "cgroup.events";
/// `cgroup.events` has a handful of lines.
const MAX_EVENTS: usize = 1_024;

/// Keeps a group's processes from running, so that none can fork away.
#[derive(Debug)]
pub(super) enum Freezer {
    /// The group in the tree of the freezer.
    V1(PathBuf),
    V2(PathBuf),
}

impl Freezer {
    fn freeze(&self) -> Result<(), CgroupError> {
        match self {
            Self::V1(folder) => set(folder, "freezer.state", "FROZEN"),
            Self::V2(folder) => set(folder, "cgroup.freeze", "1"),
        }
    }

    /// Also what is frozen for itself below, as a paused container is.
    fn thaw(&self) -> Result<(), CgroupError> {
        let (folder, file, value) = match self {
            Self::V1(folder) => (folder, "freezer.state", "THAWED"),
            Self::V2(folder) => (folder, "cgroup.freeze", "0"),
        };
        tree::subtree(folder)?
            .iter()
            .try_for_each(|group| set(group, file, value))
    }
}

/// What limits the cpu time of a group and those below it. Ending takes time as well: a thousand processes that share a
/// tenth of a processor would need minutes to.
#[derive(Debug)]
pub(super) enum Quota {
    /// The group in the tree of the processors.
    V1(PathBuf),
    V2(PathBuf),
}

impl Quota {
    /// No limit any more.
    pub(super) fn lift(&self) -> Result<(), CgroupError> {
        let (folder, file, value) = match self {
            Self::V1(folder) => (folder, "cpu.cfs_quota_us", "-1"),
            Self::V2(folder) => (folder, "cpu.max", "max"),
        };
        let groups = tree::subtree(folder)?;
        // A tree without the controller limits nothing.
        let mut limited = groups.iter().filter(|group| group.join(file).exists());
        limited.try_for_each(|group| set(group, file, value))
    }
}

/// Writes to the file of a group that may be gone.
fn set(folder: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    match tree::write(folder, file, value) {
        Err(CgroupError::Write { source, .. }) if tree::is_gone(&source) => Ok(()),
        written => written,
    }
}

/// Kills by writing to the group's file `kill`.
///
/// # Errors
/// [`CgroupError::Alive`], or what could not be done.
pub(super) fn in_one_step(path: &Path, folder: &Path, kill: &str) -> Result<(), CgroupError> {
    set(folder, kill, "1")?;
    Quota::V2(folder.to_owned()).lift()?;
    let events = folder.join(EVENTS);
    let failed = |source| CgroupError::Read {
        path: events.clone(),
        source,
    };
    let file = match File::open(&events) {
        Err(fault) if tree::is_gone(&fault) => return Ok(()),
        file => file.map_err(failed)?,
    };
    let end = Instant::now() + PATIENCE;
    loop {
        // Read before each wait: that is what arms it.
        let mut text = [0; MAX_EVENTS];
        let length = match file.read_at(&mut text, 0) {
            Err(fault) if tree::is_gone(&fault) => return Ok(()),
            length => length.map_err(failed)?,
        };
        if text[..length]
            .split(|b| *b == b'\n')
            .any(|line| line == b"populated 0")
        {
            return Ok(());
        }
        let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        if !wait(path, &mut polled, end)? {
            return Err(alive(path, tree::processes(folder)?.len()));
        }
    }
}

/// Kills what is in any of `folders`, the group `path` in each tree, or below.
///
/// # Errors
/// [`CgroupError::Alive`], or what could not be done.
pub(super) fn by_signal(
    path: &Path,
    folders: &[PathBuf],
    freezer: &Freezer,
    quota: &Quota,
) -> Result<(), CgroupError> {
    let end = Instant::now() + PATIENCE;
    loop {
        if members(folders)?.is_empty() {
            return Ok(());
        }
        freezer.freeze()?;
        let signalled = signal(path, folders);
        let lifted = quota.lift();
        freezer.thaw()?;
        let signalled = signalled?;
        lifted?;
        if !await_end(path, &signalled, end)? || Instant::now() >= end {
            return Err(alive(path, members(folders)?.len()));
        }
    }
}

/// All of them; gives some to wait for.
fn signal(path: &Path, folders: &[PathBuf]) -> Result<Vec<PidFd>, CgroupError> {
    let all: Vec<Pid> = members(folders)?.into_iter().collect();
    let mut awaited = Vec::new();
    for some in all.chunks(AT_ONCE) {
        // The last ones' descriptors are closed before the next are opened.
        awaited.clear();
        awaited = signal_some(path, folders, some)?;
    }
    Ok(awaited)
}

fn signal_some(path: &Path, folders: &[PathBuf], some: &[Pid]) -> Result<Vec<PidFd>, CgroupError> {
    let mut held = Vec::new();
    for pid in some {
        match PidFd::open(*pid) {
            Ok(process) => held.push((*pid, process)),
            Err(Errno::ESRCH) => {}
            Err(source) => return Err(fault(path, *pid, source)),
        }
    }
    // Between the list and the descriptor a number may have come to mean another process, one elsewhere.
    let present = members(folders)?;
    held.retain(|(pid, _)| present.contains(pid));
    for (pid, process) in &held {
        match process.signal(Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(source) => return Err(fault(path, *pid, source)),
        }
    }
    Ok(held.into_iter().map(|(_, process)| process).collect())
}

/// False: not all ended in time.
fn await_end(path: &Path, processes: &[PidFd], end: Instant) -> Result<bool, CgroupError> {
    for process in processes {
        let mut polled = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        if !wait(path, &mut polled, end)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn members(folders: &[PathBuf]) -> Result<BTreeSet<Pid>, CgroupError> {
    let mut all = BTreeSet::new();
    for folder in folders {
        all.extend(tree::processes(folder)?);
    }
    Ok(all)
}

/// False: nothing happened in time.
fn wait(path: &Path, polled: &mut [PollFd<'_>], end: Instant) -> Result<bool, CgroupError> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(polled, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(source) => {
                return Err(CgroupError::Wait {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

fn fault(path: &Path, pid: Pid, source: Errno) -> CgroupError {
    CgroupError::Signal {
        path: path.to_owned(),
        pid: pid.as_raw(),
        source,
    }
}

fn alive(path: &Path, count: usize) -> CgroupError {
    CgroupError::Alive {
        path: path.to_owned(),
        count,
        seconds: PATIENCE.as_secs(),
    }
}

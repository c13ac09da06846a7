//! Files and folders of one tree of control groups. Knows no version: what all of them have is
//! `cgroup.procs`, folders for groups, and rmdir(2).

use super::CgroupError;
use crate::runtime::rooted;
use nix::unistd::Pid;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a group may stay busy after its processes have ended: the kernel lets go of the last of them a
/// little after it has told about their end.
const BUSY: Duration = Duration::from_secs(2);
/// Between two attempts to remove a busy group, doubled each time up to the longest: there is nothing to
/// wait for that the kernel would announce.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

pub(super) const PROCS: &str = "cgroup.procs";

/// Where the group `path` is in the tree `root`.
///
/// # Errors
/// [`CgroupError::Path`].
pub(super) fn at(root: &Path, path: &Path) -> Result<PathBuf, CgroupError> {
    match rooted::clean(path) {
        Some(clean) if path.is_absolute() && !clean.as_os_str().is_empty() => Ok(root.join(clean)),
        _ => Err(CgroupError::Path {
            path: path.to_owned(),
        }),
    }
}

/// The groups from the one right below `root` down to `path`, as folders.
///
/// # Errors
/// [`CgroupError::Path`].
pub(super) fn down_to(root: &Path, path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let deepest = at(root, path)?;
    let mut all: Vec<PathBuf> = deepest
        .ancestors()
        .take_while(|folder| *folder != root)
        .map(Path::to_owned)
        .collect();
    all.reverse();
    Ok(all)
}

/// Makes the group in `folder`; true: it was not there.
///
/// # Errors
/// [`CgroupError::Make`].
pub(super) fn make(folder: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(folder) {
        Ok(()) => Ok(true),
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(false),
        Err(source) => Err(CgroupError::Make {
            path: folder.to_owned(),
            source,
        }),
    }
}

/// # Errors
/// [`CgroupError::Read`].
pub(super) fn read(folder: &Path, file: &str) -> Result<String, CgroupError> {
    let path = folder.join(file);
    fs::read_to_string(&path).map_err(|source| CgroupError::Read { path, source })
}

/// # Errors
/// [`CgroupError::Write`].
pub(super) fn write(folder: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let path = folder.join(file);
    // One write(2): the kernel takes each for a whole value. Never O_CREAT: a missing file is a fault.
    let written = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|source| CgroupError::Write {
        path,
        value: value.to_owned(),
        source,
    })
}

/// The number behind `key` in a file of `key number` lines.
///
/// # Errors
/// [`CgroupError::Read`] and [`CgroupError::Malformed`].
pub(super) fn number(folder: &Path, file: &str, key: &'static str) -> Result<u64, CgroupError> {
    let text = read(folder, file)?;
    value(&text, key).ok_or_else(|| CgroupError::Malformed {
        path: folder.join(file),
        what: key,
    })
}

/// The number behind `key` in a text of `key number` lines.
pub(super) fn value(text: &str, key: &str) -> Option<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    value?.trim().parse().ok()
}

/// The one number of a file.
///
/// # Errors
/// [`CgroupError::Read`] and [`CgroupError::Malformed`].
pub(super) fn single(folder: &Path, file: &str) -> Result<u64, CgroupError> {
    let text = read(folder, file)?;
    text.trim().parse().map_err(|_| CgroupError::Malformed {
        path: folder.join(file),
        what: "number",
    })
}

/// Names of the groups right below the one in `folder`; none where it is not there.
///
/// # Errors
/// [`CgroupError::Read`].
pub(super) fn children(folder: &Path) -> Result<Vec<String>, CgroupError> {
    let failed = |source| CgroupError::Read {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Err(fault) if is_gone(&fault) => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = match entry {
            Err(fault) if is_gone(&fault) => break,
            entry => entry.map_err(failed)?,
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// The group in `folder` and all below it, each before those below it.
///
/// # Errors
/// [`CgroupError::Read`].
pub(super) fn subtree(folder: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut all = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        open.extend(children(&next)?.into_iter().map(|name| next.join(name)));
        all.push(next);
    }
    Ok(all)
}

/// The processes in the group of `folder` and below; none where it is not there.
///
/// # Errors
/// [`CgroupError::Read`].
pub(super) fn processes(folder: &Path) -> Result<Vec<Pid>, CgroupError> {
    let mut pids = Vec::new();
    for group in subtree(folder)? {
        let path = group.join(PROCS);
        match fs::read_to_string(&path) {
            Ok(text) => pids.extend(
                text.lines()
                    .filter_map(|line| line.parse().ok())
                    .map(Pid::from_raw),
            ),
            Err(fault) if is_gone(&fault) => {}
            Err(source) => return Err(CgroupError::Read { path, source }),
        }
    }
    // 0 stands for a process of another pid namespace, which nobody here could signal.
    pids.retain(|pid| pid.as_raw() > 0);
    Ok(pids)
}

/// Removes the groups in `folders` with all below them; waits where the kernel is about to let go of one.
pub(super) fn remove(folders: &[PathBuf]) -> Vec<CgroupError> {
    let end = Instant::now() + BUSY;
    folders
        .iter()
        .flat_map(|folder| remove_tree(folder, end))
        .collect()
}

fn remove_tree(folder: &Path, end: Instant) -> Vec<CgroupError> {
    let groups = match subtree(folder) {
        Ok(groups) => groups,
        Err(fault) => return vec![fault],
    };
    let faults = groups
        .iter()
        .rev()
        .filter_map(|group| remove_one(group, end).err());
    faults.collect()
}

fn remove_one(group: &Path, end: Instant) -> Result<(), CgroupError> {
    let mut pause = FIRST_PAUSE;
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(fault) if is_gone(&fault) => return Ok(()),
            Err(fault) if fault.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(source) => {
                return Err(CgroupError::Remove {
                    path: group.to_owned(),
                    source,
                });
            }
        }
    }
}

/// A group that is removed while it is looked at has no files any more (`ENODEV`), then none of its own.
pub(super) fn is_gone(fault: &io::Error) -> bool {
    fault.kind() == io::ErrorKind::NotFound || fault.raw_os_error() == Some(libc::ENODEV)
}

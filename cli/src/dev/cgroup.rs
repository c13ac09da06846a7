//! The cgroups of a cluster's sandboxes, in every hierarchy of this machine: ending what runs in them and
//! removing them.

use super::DevError;
use super::mount;
use super::process;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cgroup can be removed a moment after its last process has ended.
const REMOVE_ATTEMPTS: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);
/// Processes fork while they are killed; each round takes those that are there.
const KILL_ROUNDS: u32 = 20;

/// The roots of `name` that exist, one per hierarchy.
pub(super) fn roots(name: &str) -> Result<Vec<PathBuf>, DevError> {
    let mut roots = BTreeSet::new();
    for mount in mount::all()? {
        let is_cgroup = matches!(mount.kind.as_str(), "cgroup" | "cgroup2");
        let root = mount.point.join(name);
        if is_cgroup && root.is_dir() {
            roots.insert(root);
        }
    }
    Ok(roots.into_iter().collect())
}

/// Ends every process in `roots` and every one whose network namespace is in `namespaces`; every failure.
pub(super) fn kill_all(roots: &[PathBuf], namespaces: &BTreeSet<String>) -> Vec<DevError> {
    let mut failures = Vec::new();
    for root in roots {
        if let Err(error) = thaw(root) {
            failures.push(error);
        }
    }
    for _ in 0..KILL_ROUNDS {
        let mut pids = in_namespaces(namespaces);
        for root in roots {
            match processes(root) {
                Ok(found) => pids.extend(found),
                Err(error) => failures.push(error),
            }
        }
        if pids.is_empty() {
            return failures;
        }
        for pid in pids {
            if let Err(source) = process::kill_pid(pid) {
                failures.push(DevError::Signal {
                    act: "kill",
                    member: format!("process {pid}"),
                    source,
                });
            }
        }
    }
    failures
}

/// Removes a tree of cgroups, the lowest first.
pub(super) async fn remove(root: &Path) -> Result<(), DevError> {
    let mut dirs = tree(root)?;
    dirs.reverse();
    for dir in dirs {
        let mut attempt = 0;
        loop {
            match std::fs::remove_dir(&dir) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && attempt < REMOVE_ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(REMOVE_PAUSE).await;
                }
                Err(source) => return Err(DevError::io("remove cgroup", dir)(source)),
            }
        }
    }
    Ok(())
}

/// A frozen process of a v1 hierarchy dies only once it is thawed.
fn thaw(root: &Path) -> Result<(), DevError> {
    for dir in tree(root)? {
        let state = dir.join("freezer.state");
        if state.exists() {
            std::fs::write(&state, "THAWED").map_err(DevError::io("thaw", state))?;
        }
    }
    Ok(())
}

fn processes(root: &Path) -> Result<BTreeSet<u32>, DevError> {
    let mut pids = BTreeSet::new();
    for dir in tree(root)? {
        let procs = dir.join("cgroup.procs");
        match std::fs::read_to_string(&procs) {
            // Pid 0 stands for a process outside our pid namespace.
            Ok(text) => pids.extend(
                text.lines()
                    .filter_map(|line| line.parse::<u32>().ok())
                    .filter(|pid| *pid != 0),
            ),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // A threaded cgroup lists its processes at the root of its domain.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(source) => return Err(DevError::io("read", procs)(source)),
        }
    }
    Ok(pids)
}

fn in_namespaces(namespaces: &BTreeSet<String>) -> BTreeSet<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    // A process that ends meanwhile has no namespace to read: it is no longer of interest.
    pids.filter(|pid| {
        std::fs::read_link(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|link| link.to_str().is_some_and(|link| namespaces.contains(link)))
    })
    .collect()
}

/// `root` and all below it, each before its children.
fn tree(root: &Path) -> Result<Vec<PathBuf>, DevError> {
    let mut dirs = vec![root.to_owned()];
    let mut next = 0;
    while let Some(dir) = dirs.get(next).cloned() {
        next += 1;
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(DevError::io("read", dir)(source)),
        };
        for entry in entries.filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                dirs.push(entry.path());
            }
        }
    }
    Ok(dirs)
}

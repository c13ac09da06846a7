//! Takes away what was made for a sandbox, whatever of it is there: after its end, after an attempt that was
//! killed, after a reboot. Idempotent; one failure never keeps the rest from being done.

use super::{CONTAINERS, FilesError, RUN, VOLUMES};
use crate::runtime::mount::{MountError, unmount, unmount_below};
use crate::runtime::rooted::Root;
use nix::errno::Errno;
use proto::id::Name;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Ends all mounts and removes what was for them; keeps `logs/`, `monitor/` and what others have made.
#[must_use]
pub fn release(dir: &Path) -> Vec<FilesError> {
    let run = dir.join(RUN);
    let mut faults: Vec<FilesError> = Vec::new();
    for path in mount_points(&run).into_iter().chain([run.clone()]) {
        faults.extend(unmount(&path).err().map(FilesError::from));
    }
    // Hundreds of sandboxes have thousands of mounts, which are not looked through where this was all.
    if faults.is_empty() && is_gone(&run) {
        return faults;
    }
    faults.extend(take_away(dir, &[PathBuf::from(RUN)]));
    faults
}

/// Where something may be mounted in a `run/`: volumes, and what containers have.
fn mount_points(run: &Path) -> Vec<PathBuf> {
    let containers = folders(&run.join(CONTAINERS));
    let mut points: Vec<PathBuf> = containers.iter().flat_map(|folder| folders(folder)).collect();
    points.extend(folders(&run.join(VOLUMES)));
    points
}

/// Those that are no folders don't matter, and those that can't be read are found in the table of mounts.
fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    entries.map(|entry| entry.path()).collect()
}

fn is_gone(folder: &Path) -> bool {
    fs::remove_dir(folder).map_or_else(|fault| fault.kind() == io::ErrorKind::NotFound, |()| true)
}

/// Removes the folder with all that is in it.
#[must_use]
pub fn remove(dir: &Path) -> Vec<FilesError> {
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => take_away(parent, &[PathBuf::from(name)]),
        _ => vec![FilesError::Remove {
            path: dir.to_owned(),
            source: Errno::EINVAL,
        }],
    }
}

pub(super) fn release_container(dir: &Path, container: &Name) -> Vec<FilesError> {
    take_away(dir, &[Path::new(RUN).join(CONTAINERS).join(container.as_str())])
}

/// What is mounted nowhere any more is removed; what is still mounted has something of others in it, and stays.
fn take_away(dir: &Path, parts: &[PathBuf]) -> Vec<FilesError> {
    let folder = match Root::open(dir) {
        Ok(folder) => folder,
        Err(Errno::ENOENT) => return Vec::new(),
        Err(source) => {
            return vec![FilesError::Remove {
                path: dir.to_owned(),
                source,
            }];
        }
    };
    let paths: Vec<PathBuf> = parts.iter().map(|part| dir.join(part)).collect();
    let present: Vec<&Path> = paths
        .iter()
        .map(PathBuf::as_path)
        .filter(|p| p.exists())
        .collect();
    if present.is_empty() {
        return Vec::new();
    }
    let mut faults: Vec<FilesError> = unmount_below(&present)
        .into_iter()
        .map(FilesError::from)
        .collect();
    for (part, path) in parts.iter().zip(&paths) {
        if faults.iter().any(|fault| is_mounted_below(fault, path)) {
            continue;
        }
        if let Err(source) = folder.place(part).and_then(|place| place.remove()) {
            faults.push(FilesError::Remove {
                path: path.clone(),
                source,
            });
        }
    }
    faults
}

fn is_mounted_below(fault: &FilesError, path: &Path) -> bool {
    match fault {
        FilesError::Mount(MountError::Table { .. }) => true,
        FilesError::Mount(MountError::Unmount { path: mounted, .. }) => mounted.starts_with(path),
        FilesError::Mount(_) | FilesError::Make { .. } | FilesError::Remove { .. } => false,
    }
}

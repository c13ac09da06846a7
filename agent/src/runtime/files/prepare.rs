//! Makes what a sandbox and its containers need before they start. A step that fails undoes what it did.

use super::release::{release, release_container};
use super::{CONTAINERS, ContainerFiles, ETC, FilesError, SandboxFiles, VOLUMES, logs_of};
use crate::runtime::bundle::tmpfs_mode;
use crate::runtime::mount::{self, MountError};
use proto::budget::{self, ContainerBudget, TmpfsLimit};
use proto::id::Name;
use proto::spec::{Container, SandboxSpec};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A place for everyone, as `/tmp` is.
const OPEN: u32 = 0o1777;
/// No user of the node has business in there.
pub(super) const PRIVATE: u32 = 0o700;
/// Any user of a container may read these.
const READABLE: u32 = 0o644;

/// Makes what the containers of a sandbox share. What an attempt that was killed has left is cleared first.
///
/// # Errors
/// [`FilesError`]; then nothing new is there but the folder itself.
pub fn prepare_sandbox(
    dir: &Path,
    spec: &SandboxSpec,
    hostname: &str,
    ip: Ipv4Addr,
    resolv_conf: &str,
) -> Result<SandboxFiles, FilesError> {
    make_all(dir)?;
    cleared(release(dir))?;
    let make = || {
        let etc = dir.join(ETC);
        make_folder(&etc, PRIVATE)?;
        Ok(SandboxFiles {
            dir: dir.to_owned(),
            volumes: make_volumes(dir, spec)?,
            hosts: make_file(&etc, "hosts", &hosts(hostname, ip))?,
            host_name: make_file(&etc, "hostname", &format!("{hostname}\n"))?,
            resolv_conf: make_file(&etc, "resolv.conf", resolv_conf)?,
        })
    };
    make().inspect_err(|_| warn_of(release(dir)))
}

/// Makes what is a container's own, from its image's `layers`, lowest first. What an attempt that was
/// killed has left is cleared first.
///
/// # Errors
/// [`FilesError`]; then nothing of the container is there but its folder of logs.
pub fn prepare_container(
    files: &SandboxFiles,
    spec: &SandboxSpec,
    container: &Container,
    layers: &[PathBuf],
) -> Result<ContainerFiles, FilesError> {
    let logs = logs_of(&files.dir, &container.name);
    make_all(&logs)?;
    let dir = files.dir.join(CONTAINERS).join(container.name.as_str());
    if dir.exists() {
        cleared(release_container(&files.dir, &container.name))?;
    }
    make_all(&dir)?;
    let budget = budget::container(spec, container);
    let make = || {
        let (tmp, shm, tmpfs) = make_temporary(&dir, container, &budget)?;
        let bundle = dir.join("bundle");
        make_folder(&bundle, PRIVATE)?;
        Ok(ContainerFiles {
            rootfs: make_root(&dir, &budget, layers)?,
            tmp,
            shm,
            tmpfs,
            bundle,
            logs,
        })
    };
    make().inspect_err(|_| warn_of(release_container(&files.dir, &container.name)))
}

fn make_volumes(dir: &Path, spec: &SandboxSpec) -> Result<BTreeMap<Name, PathBuf>, FilesError> {
    let all = dir.join(VOLUMES);
    make_folder(&all, PRIVATE)?;
    let mut volumes = BTreeMap::new();
    for volume in &spec.volumes {
        let path = all.join(volume.name.as_str());
        mount_tmpfs(&path, TmpfsLimit::of(volume.size), OPEN)?;
        volumes.insert(volume.name.clone(), path);
    }
    Ok(volumes)
}

/// `/tmp`, `/dev/shm` and all tmpfs mounts. What has no size of its own is a folder in the `/tmp` budget;
/// each thing has its own there, so that none shows up in another.
fn make_temporary(
    dir: &Path,
    container: &Container,
    budget: &ContainerBudget,
) -> Result<(PathBuf, PathBuf, Vec<PathBuf>), FilesError> {
    let shared = dir.join("tmp");
    mount_tmpfs(&shared, budget.tmp, PRIVATE)?;
    let [tmp, shm] = ["tmp", "shm"].map(|name| shared.join(name));
    make_folder(&tmp, OPEN)?;
    make_folder(&shm, OPEN)?;
    let mut all = Vec::new();
    for (i, (tmpfs, limit)) in container.tmpfs.iter().zip(&budget.tmpfs).enumerate() {
        let (name, mode) = (format!("tmpfs-{i}"), tmpfs_mode(&tmpfs.options));
        let path = match limit {
            Some(limit) => {
                let own = dir.join(name);
                mount_tmpfs(&own, *limit, mode)?;
                own
            }
            None => {
                let folder = shared.join(name);
                make_folder(&folder, mode)?;
                folder
            }
        };
        all.push(path);
    }
    Ok((tmp, shm, all))
}

/// A read-only root has a writable layer as well, of the `/tmp` budget: the OCI runtime makes there what it
/// mounts on and the image lacks, and then makes the root read-only before the container's first instruction.
fn make_root(dir: &Path, budget: &ContainerBudget, layers: &[PathBuf]) -> Result<PathBuf, FilesError> {
    let writable = match budget.root {
        Some(limit) => {
            let root = dir.join("root");
            mount_tmpfs(&root, limit, PRIVATE)?;
            root
        }
        None => {
            let points = dir.join("tmp").join("points");
            make_folder(&points, PRIVATE)?;
            points
        }
    };
    let rootfs = dir.join("rootfs");
    make_folder(&rootfs, PRIVATE)?;
    mount::overlay(&rootfs, layers, &writable)?;
    Ok(rootfs)
}

fn hosts(hostname: &str, ip: Ipv4Addr) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ip}\t{hostname}\n")
}

fn mount_tmpfs(path: &Path, limit: TmpfsLimit, mode: u32) -> Result<(), FilesError> {
    make_folder(path, PRIVATE)?;
    Ok(mount::tmpfs(path, limit, mode)?)
}

fn make_all(path: &Path) -> Result<(), FilesError> {
    let made = DirBuilder::new().recursive(true).mode(PRIVATE).create(path);
    made.map_err(unmade(path))
}

/// The process' mask has no say in the mode.
pub(super) fn make_folder(path: &Path, mode: u32) -> Result<(), FilesError> {
    let made = DirBuilder::new().mode(PRIVATE).create(path);
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(unmade(path))
}

fn make_file(folder: &Path, name: &str, text: &str) -> Result<PathBuf, FilesError> {
    let path = folder.join(name);
    fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(READABLE)))
        .map_err(unmade(&path))?;
    Ok(path)
}

pub(super) fn unmade(path: &Path) -> impl FnOnce(io::Error) -> FilesError + use<'_> {
    move |source| FilesError::Make {
        path: path.to_owned(),
        source,
    }
}

/// Leftovers that are still held open are out of the way all the same.
fn cleared(faults: Vec<FilesError>) -> Result<(), FilesError> {
    let (busy, others): (Vec<_>, Vec<_>) = faults
        .into_iter()
        .partition(|fault| matches!(fault, FilesError::Mount(MountError::Busy { .. })));
    warn_of(busy);
    others.into_iter().next().map_or(Ok(()), Err)
}

fn warn_of(faults: Vec<FilesError>) {
    for fault in faults {
        tracing::warn!(%fault, "cannot clear all that was made for a sandbox");
    }
}

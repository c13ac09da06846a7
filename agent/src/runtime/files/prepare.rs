//! Makes what a sandbox and its containers need before they start. A step that fails undoes what it did.

use super::release::{release, release_container};
use super::{CONTAINERS, ContainerFiles, ETC, FilesError, RUN, SandboxFiles, VOLUMES, logs_of};
use crate::runtime::bundle::{tmpfs_is_open, tmpfs_mode};
use crate::runtime::mount::{self, MountError, Tmpfs};
use crate::runtime::user_namespace::{UserNamespace, root_of};
use proto::budget::{self, ContainerBudget, TmpfsLimit};
use proto::id::Name;
use proto::spec::{Container, SandboxSpec};
use proto::units::Bytes;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// A place for everyone, as `/tmp` is.
const OPEN: u32 = 0o1777;
/// No user of the node has business in there.
pub(super) const PRIVATE: u32 = 0o700;
/// On the way to a root filesystem, for one group.
const PASSABLE: u32 = 0o710;
/// Any user of a container may read these.
const READABLE: u32 = 0o644;

/// Of `run/`, in which nobody writes but the agent and the OCI runtimes: far more than any sandbox needs.
const ROOM: Tmpfs = Tmpfs {
    limit: TmpfsLimit {
        size: Bytes(64 << 20),
        inodes: 65_536,
    },
    mode: PRIVATE,
    owner: 0,
    is_open: false,
};

/// What the files of `/etc` say.
#[derive(Debug, Clone, Copy)]
pub struct Etc<'a> {
    pub hostname: &'a str,
    pub ip: Ipv4Addr,
    pub resolv_conf: &'a str,
}

/// Makes what the containers of a sandbox share. What an attempt that was killed has left is cleared first.
///
/// # Errors
/// [`FilesError`]; then nothing new is there but the folder itself.
pub fn prepare_sandbox(
    dir: &Path,
    spec: &SandboxSpec,
    etc: Etc<'_>,
    user_namespace: Option<UserNamespace>,
) -> Result<SandboxFiles, FilesError> {
    make_all(dir)?;
    cleared(release(dir))?;
    let owner = root_of(user_namespace.as_ref());
    let run = dir.join(RUN);
    let make = || {
        mount_tmpfs(&run, ROOM)?;
        let folder = run.join(ETC);
        make_folder(&folder, PRIVATE, 0)?;
        let file = |name, text: &str| make_file(&folder, name, text, owner);
        let containers = run.join(CONTAINERS);
        make_folder(&containers, PRIVATE, 0)?;
        for passed in [dir, &run, &containers] {
            let_pass(passed, owner)?;
        }
        Ok(SandboxFiles {
            dir: dir.to_owned(),
            volumes: make_volumes(&run, spec, owner)?,
            run: run.clone(),
            hosts: file("hosts", &hosts(etc.hostname, etc.ip))?,
            host_name: file("hostname", &format!("{}\n", etc.hostname))?,
            resolv_conf: file("resolv.conf", etc.resolv_conf)?,
            user_namespace: user_namespace.clone(),
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
    let dir = files.run.join(CONTAINERS).join(container.name.as_str());
    if dir.exists() {
        cleared(release_container(&files.dir, &container.name))?;
    }
    make_all(&dir)?;
    let budget = budget::container(spec, container);
    let namespace = files.user_namespace.as_ref();
    let make = || {
        let_pass(&dir, root_of(namespace))?;
        let (tmp, shm, tmpfs) = make_temporary(&dir, container, &budget, root_of(namespace))?;
        let bundle = dir.join("bundle");
        make_folder(&bundle, PRIVATE, 0)?;
        Ok(ContainerFiles {
            rootfs: make_root(&dir, &budget, layers, namespace)?,
            tmp,
            shm,
            tmpfs,
            bundle,
            logs,
        })
    };
    make().inspect_err(|_| warn_of(release_container(&files.dir, &container.name)))
}

fn make_volumes(run: &Path, spec: &SandboxSpec, owner: u32) -> Result<BTreeMap<Name, PathBuf>, FilesError> {
    let all = run.join(VOLUMES);
    make_folder(&all, PRIVATE, 0)?;
    let mut volumes = BTreeMap::new();
    for volume in &spec.volumes {
        let path = all.join(volume.name.as_str());
        let wanted = Tmpfs {
            limit: TmpfsLimit::of(volume.size),
            mode: OPEN,
            owner,
            is_open: false,
        };
        mount_tmpfs(&path, wanted)?;
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
    owner: u32,
) -> Result<(PathBuf, PathBuf, Vec<PathBuf>), FilesError> {
    let shared = dir.join("tmp");
    let tmpfs = |limit, mode, is_open| Tmpfs {
        limit,
        mode,
        owner,
        is_open,
    };
    let drawing = container.tmpfs.iter().zip(&budget.tmpfs);
    let mut drawing = drawing.filter(|(_, limit)| limit.is_none());
    let is_open = drawing.any(|(drawing, _)| tmpfs_is_open(&drawing.options));
    mount_tmpfs(&shared, tmpfs(budget.tmp, PRIVATE, is_open))?;
    let [tmp, shm] = ["tmp", "shm"].map(|name| shared.join(name));
    make_folder(&tmp, OPEN, owner)?;
    make_folder(&shm, OPEN, owner)?;
    let mut all = Vec::new();
    for (i, (wanted, limit)) in container.tmpfs.iter().zip(&budget.tmpfs).enumerate() {
        let (name, mode) = (format!("tmpfs-{i}"), tmpfs_mode(&wanted.options));
        let path = match limit {
            Some(limit) => {
                let own = dir.join(name);
                mount_tmpfs(&own, tmpfs(*limit, mode, tmpfs_is_open(&wanted.options)))?;
                own
            }
            None => {
                let folder = shared.join(name);
                make_folder(&folder, mode, owner)?;
                folder
            }
        };
        all.push(path);
    }
    Ok((tmp, shm, all))
}

/// A read-only root has a writable layer as well, of the `/tmp` budget: the OCI runtime makes there what it
/// mounts on and the image lacks, and then makes the root read-only before the container's first instruction.
fn make_root(
    dir: &Path,
    budget: &ContainerBudget,
    layers: &[PathBuf],
    namespace: Option<&UserNamespace>,
) -> Result<PathBuf, FilesError> {
    let writable = match budget.root {
        Some(limit) => {
            let root = dir.join("root");
            let wanted = Tmpfs {
                limit,
                mode: PRIVATE,
                owner: 0,
                is_open: false,
            };
            mount_tmpfs(&root, wanted)?;
            root
        }
        None => {
            let points = dir.join("tmp").join("points");
            make_folder(&points, PRIVATE, 0)?;
            points
        }
    };
    let rootfs = dir.join("rootfs");
    make_folder(&rootfs, PRIVATE, 0)?;
    mount::overlay(&rootfs, layers, &writable, namespace)?;
    Ok(rootfs)
}

fn hosts(hostname: &str, ip: Ipv4Addr) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{ip}\t{hostname}\n")
}

fn mount_tmpfs(path: &Path, wanted: Tmpfs) -> Result<(), FilesError> {
    make_folder(path, PRIVATE, 0)?;
    Ok(mount::tmpfs(path, wanted)?)
}

fn make_all(path: &Path) -> Result<(), FilesError> {
    let made = DirBuilder::new().recursive(true).mode(PRIVATE).create(path);
    made.map_err(unmade(path))
}

/// The process' mask has no say in the mode.
pub(super) fn make_folder(path: &Path, mode: u32, owner: u32) -> Result<(), FilesError> {
    let made = DirBuilder::new().mode(PRIVATE).create(path);
    made.and_then(|()| give(path, mode, owner)).map_err(unmade(path))
}

/// Root of the user namespace, who is nobody here, can pass it by its group, and nobody else can.
fn let_pass(path: &Path, owner: u32) -> Result<(), FilesError> {
    if owner == 0 {
        return Ok(());
    }
    chown(path, None, Some(owner))
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(PASSABLE)))
        .map_err(unmade(path))
}

/// The mode last: a change of owner takes from it.
fn give(path: &Path, mode: u32, owner: u32) -> io::Result<()> {
    if owner != 0 {
        chown(path, Some(owner), Some(owner))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn make_file(folder: &Path, name: &str, text: &str, owner: u32) -> Result<PathBuf, FilesError> {
    let path = folder.join(name);
    fs::write(&path, text)
        .and_then(|()| give(&path, READABLE, owner))
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

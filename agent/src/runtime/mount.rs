//! Mounts what a sandbox needs, and unmounts it. A mount is made whole before it is attached, and never
//! propagates to another namespace. Needs Linux 5.10 or later, and 5.19 for layers in a user namespace.
//!
//! Called by `files`, which decides what goes where; targets are folders that no container can change.

mod overlay;

pub use overlay::overlay;

use super::mountinfo;
use super::sys::mount::{Attributes, Context};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use proto::budget::TmpfsLimit;
use std::ffi::{CStr, CString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a mount may be busy before it is detached as it is: the kernel closes the files of a process
/// that was killed within a millisecond or so, and announces nothing.
const BUSY: Duration = Duration::from_millis(200);
const BUSY_PAUSE: Duration = Duration::from_millis(2);

const TMPFS: &CStr = c"tmpfs";

/// What could not be mounted or unmounted, and what the kernel says about it.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("cannot mount {filesystem} at {}: {}: {source}{}", target.display(), act, explained(.explanation))]
    Mount {
        filesystem: &'static str,
        target: PathBuf,
        /// Which step failed, such as the parameter.
        act: String,
        explanation: String,
        source: Errno,
    },
    #[error("cannot mount a root filesystem at {}: its image has no layers", target.display())]
    NoLayers { target: PathBuf },
    #[error("cannot use the layer {}: {source}", path.display())]
    Layer { path: PathBuf, source: io::Error },
    #[error("cannot make {} for the writable layer: {source}", path.display())]
    Writable { path: PathBuf, source: io::Error },
    #[error("cannot {act} the user namespace {}: {source}", path.display())]
    UserNamespace {
        act: &'static str,
        path: PathBuf,
        source: Errno,
    },
    #[error("cannot read the table of mounts: {source}")]
    Table { source: io::Error },
    #[error("cannot unmount {}: {source}", path.display())]
    Unmount { path: PathBuf, source: Errno },
    /// Not there for anyone any more; its memory is free once what holds it open has ended.
    #[error("{} was still in use and is detached: it goes when the process that holds it open ends", path.display())]
    Busy { path: PathBuf },
}

fn explained(explanation: &str) -> String {
    if explanation.is_empty() {
        String::new()
    } else {
        format!(" ({explanation})")
    }
}

/// What an empty tmpfs is to be.
#[derive(Debug, Clone, Copy)]
pub struct Tmpfs {
    pub limit: TmpfsLimit,
    /// Of its root, such as `0o1777`.
    pub mode: u32,
    /// Of its root, the user and the group, on the host.
    pub owner: u32,
    /// Setuid programs and devices are of use there, where a bind of it does not forbid them. One that did could not allow
    /// them again within a user namespace.
    pub is_open: bool,
}

/// Mounts an empty tmpfs.
///
/// # Errors
/// [`MountError::Mount`].
pub fn tmpfs(target: &Path, wanted: Tmpfs) -> Result<(), MountError> {
    let making = Making::begin("tmpfs", TMPFS, target)?;
    making.set(c"size", &wanted.limit.size.0.to_string())?;
    making.set(c"nr_inodes", &wanted.limit.inodes.to_string())?;
    making.set(c"mode", &format!("{:o}", wanted.mode))?;
    if wanted.owner != 0 {
        making.set(c"uid", &wanted.owner.to_string())?;
        making.set(c"gid", &wanted.owner.to_string())?;
    }
    // Before Linux 6.4 its pages may be swapped out, where the node has swap.
    match making.context.flag(c"noswap") {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(source) => return Err(making.failed("noswap", source)),
    }
    making.finish(if wanted.is_open {
        Attributes::None
    } else {
        Attributes::NosuidNodev
    })
}

/// Unmounts everything at and below `folders`, the last mount first. Nothing mounted there is fine.
#[must_use]
pub fn unmount_below(folders: &[&Path]) -> Vec<MountError> {
    let mounts = match mountinfo::read() {
        Ok(mounts) => mounts,
        Err(source) => return vec![MountError::Table { source }],
    };
    // The table has the paths as they are without links.
    let folders: Vec<PathBuf> = folders
        .iter()
        .filter_map(|folder| folder.canonicalize().ok())
        .collect();
    let ours = mounts
        .iter()
        .rev()
        .map(|mount| mount.path.as_path())
        .filter(|path| folders.iter().any(|folder| path.starts_with(folder)));
    ours.filter_map(|path| unmount(path).err()).collect()
}

/// Unmounts the last mount at `path`; none there is fine.
///
/// # Errors
/// [`MountError::Busy`] where it is still used, and out of the way all the same, or [`MountError::Unmount`].
pub fn unmount(path: &Path) -> Result<(), MountError> {
    let end = Instant::now() + BUSY;
    loop {
        match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
            // It has gone meanwhile.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) if Instant::now() < end => std::thread::sleep(BUSY_PAUSE),
            Err(Errno::EBUSY) => break,
            Err(source) => {
                return Err(MountError::Unmount {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
    let path = path.to_owned();
    match umount2(&path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
        Ok(()) => Err(MountError::Busy { path }),
        Err(source) => Err(MountError::Unmount { path, source }),
    }
}

/// A filesystem in the making.
struct Making<'a> {
    context: Context,
    filesystem: &'static str,
    target: &'a Path,
}

impl<'a> Making<'a> {
    fn begin(filesystem: &'static str, name: &CStr, target: &'a Path) -> Result<Self, MountError> {
        let context = Context::open(name).map_err(|source| MountError::Mount {
            filesystem,
            target: target.to_owned(),
            act: "the kernel lacks it".to_owned(),
            explanation: String::new(),
            source,
        })?;
        Ok(Self {
            context,
            filesystem,
            target,
        })
    }

    fn set(&self, key: &CStr, value: &str) -> Result<(), MountError> {
        let set = CString::new(value)
            .map_err(|_| Errno::EINVAL)
            .and_then(|value| self.context.set(key, &value));
        set.map_err(|source| self.failed(&format!("{}={value}", key.to_string_lossy()), source))
    }

    fn finish(&self, attributes: Attributes) -> Result<(), MountError> {
        self.context
            .mount(attributes)
            .map_err(|source| self.failed("with all parameters", source))?
            .attach(self.target)
            .map_err(|source| self.failed("attaching it", source))?;
        keep_private(self.target).map_err(|source| self.failed("keeping it private", source))
    }

    fn failed(&self, act: &str, source: Errno) -> MountError {
        MountError::Mount {
            filesystem: self.filesystem,
            target: self.target.to_owned(),
            act: act.to_owned(),
            explanation: self.context.explanation(),
            source,
        }
    }
}

/// A mount on one that is shared is shared as well, and its copies elsewhere would outlive it. Undone where
/// it fails.
fn keep_private(target: &Path) -> Result<(), Errno> {
    nix::mount::mount(
        None::<&Path>,
        target,
        None::<&Path>,
        MsFlags::MS_PRIVATE,
        None::<&Path>,
    )
    .inspect_err(|_| {
        if let Err(fault) = unmount(target) {
            tracing::warn!(%fault, "cannot undo a mount");
        }
    })
}

#[cfg(test)]
pub(in crate::runtime) mod tests;

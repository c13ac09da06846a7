//! Mounts what a sandbox needs, and unmounts it. A mount is made whole before it is attached, and never
//! propagates to another namespace. Needs Linux 5.10 or later.
//!
//! Called by `files`, which decides what goes where; targets are folders that no container can change.

use super::mountinfo;
use super::sys::mount::{Attributes, Context, MAX_VALUE};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::Mode;
use proto::budget::TmpfsLimit;
use std::ffi::{CStr, CString};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a mount may be busy before it is detached as it is: the kernel closes the files of a process
/// that was killed within a millisecond or so, and announces nothing.
const BUSY: Duration = Duration::from_millis(200);
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// mount(2) takes options of at most a page, and cuts off what is longer.
const MAX_OPTIONS: usize = 4_095;

const TMPFS: &CStr = c"tmpfs";
const OVERLAY: &CStr = c"overlay";

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

/// Mounts an empty tmpfs whose root has `mode`, such as `0o1777`.
///
/// # Errors
/// [`MountError::Mount`].
pub fn tmpfs(target: &Path, limit: TmpfsLimit, mode: u32) -> Result<(), MountError> {
    let making = Making::begin("tmpfs", TMPFS, target)?;
    making.set(c"size", &limit.size.0.to_string())?;
    making.set(c"nr_inodes", &limit.inodes.to_string())?;
    making.set(c"mode", &format!("{mode:o}"))?;
    // Before Linux 6.4 its pages may be swapped out, where the node has swap.
    match making.context.flag(c"noswap") {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(source) => return Err(making.failed("noswap", source)),
    }
    making.finish(Attributes::NosuidNodev)
}

/// Mounts `layers`, lowest first, one above the other, with all changes kept in `writable`: a folder on a
/// tmpfs, in which `upper` and `work` are made. After a crash of the node the changes are worthless.
///
/// # Errors
/// [`MountError`] where a layer is missing or the kernel refuses.
pub fn overlay(target: &Path, layers: &[PathBuf], writable: &Path) -> Result<(), MountError> {
    let parts = Parts::make(layers, writable, target)?;
    match overlay_by_parameters(target, &parts) {
        // `lowerdir+` came with Linux 6.7.
        Err(MountError::Mount {
            source: Errno::EINVAL,
            explanation,
            ..
        }) => overlay_by_options(target, &parts, explanation),
        done => done,
    }
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

fn unmount(path: &Path) -> Result<(), MountError> {
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

/// A folder that is held open, so that it is the one that was checked.
struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

impl Folder {
    fn open(path: &Path) -> Result<Self, MountError> {
        let fd = open(
            path,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let path = path.to_owned();
        match fd {
            Ok(fd) => Ok(Self { path, fd }),
            Err(source) => Err(MountError::Layer {
                path,
                source: source.into(),
            }),
        }
    }

    /// Short, and without any character that means something in an option.
    fn link(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// The path where the kernel takes it as it is: in the table of mounts it says more than the link.
    fn name(&self) -> String {
        let is_plain = |path: &&str| path.len() < MAX_VALUE && !path.contains(['\\', ':', ',']);
        self.path
            .to_str()
            .filter(is_plain)
            .map_or_else(|| self.link(), str::to_owned)
    }
}

/// What an overlay is made of.
struct Parts {
    /// Highest first.
    layers: Vec<Folder>,
    upper: Folder,
    work: Folder,
}

impl Parts {
    fn make(layers: &[PathBuf], writable: &Path, target: &Path) -> Result<Self, MountError> {
        let layers: Result<Vec<Folder>, MountError> =
            layers.iter().rev().map(|path| Folder::open(path)).collect();
        let layers = layers?;
        let top = layers.first().ok_or_else(|| MountError::NoLayers {
            target: target.to_owned(),
        })?;
        let [upper, work] = ["upper", "work"].map(|name| writable.join(name));
        for path in [&upper, &work] {
            fs::create_dir_all(path).map_err(|source| MountError::Writable {
                path: path.clone(),
                source,
            })?;
        }
        resemble(&upper, &top.path).map_err(|source| MountError::Writable {
            path: upper.clone(),
            source,
        })?;
        Ok(Self {
            upper: Folder::open(&upper)?,
            work: Folder::open(&work)?,
            layers,
        })
    }
}

/// The root of a container has the owner and mode of its highest layer.
fn resemble(upper: &Path, top: &Path) -> io::Result<()> {
    let root = fs::metadata(top)?;
    std::os::unix::fs::chown(upper, Some(root.uid()), Some(root.gid()))?;
    fs::set_permissions(upper, Permissions::from_mode(root.mode()))
}

fn overlay_by_parameters(target: &Path, parts: &Parts) -> Result<(), MountError> {
    let making = Making::begin("overlay", OVERLAY, target)?;
    for layer in &parts.layers {
        making.set(c"lowerdir+", &layer.name())?;
    }
    making.set(c"upperdir", &parts.upper.name())?;
    making.set(c"workdir", &parts.work.name())?;
    making
        .context
        .flag(c"volatile")
        .map_err(|source| making.failed("volatile", source))?;
    making.finish(Attributes::None)
}

/// As before Linux 6.7, for some 200 layers at most. `explanation` is why the other way does not work.
fn overlay_by_options(target: &Path, parts: &Parts, explanation: String) -> Result<(), MountError> {
    let failed = |act: &str, source| MountError::Mount {
        filesystem: "overlay",
        target: target.to_owned(),
        act: act.to_owned(),
        explanation: explanation.clone(),
        source,
    };
    let lower: Vec<String> = parts.layers.iter().map(Folder::link).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.join(":"),
        parts.upper.link(),
        parts.work.link(),
    );
    if options.len() > MAX_OPTIONS {
        return Err(failed("its layers are too many for this kernel", Errno::E2BIG));
    }
    let (kind, none) = (Some(OVERLAY), MsFlags::empty());
    nix::mount::mount(kind, target, kind, none, Some(options.as_str()))
        .map_err(|source| failed("with its options", source))?;
    keep_private(target).map_err(|source| failed("keeping it private", source))
}

#[cfg(test)]
pub(in crate::runtime) mod tests;

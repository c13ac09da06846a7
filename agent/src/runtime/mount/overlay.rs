//! The root filesystem of a container: an overlay of the layers of its image, with all changes in memory.

use super::{Making, MountError, keep_private};
use crate::runtime::sys::mount::{Attributes, Detached, MAX_VALUE};
use crate::runtime::user_namespace::UserNamespace;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::Mode;
use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// mount(2) takes options of at most a page, and cuts off what is longer.
const MAX_OPTIONS: usize = 4_095;

const OVERLAY: &CStr = c"overlay";

/// Mounts `layers`, lowest first, one above the other, with all changes kept in `writable`: a folder on a
/// tmpfs, in which `upper` and `work` are made. After a crash of the node the changes are worthless. With a user
/// namespace, whose id a file has in its layer is whose it is in there.
///
/// # Errors
/// [`MountError`] where a layer is missing or the kernel refuses.
pub fn overlay(
    target: &Path,
    layers: &[PathBuf],
    writable: &Path,
    namespace: Option<&UserNamespace>,
) -> Result<(), MountError> {
    let mapped = match namespace {
        Some(namespace) => Mapped::all(layers, namespace)?,
        None => Vec::new(),
    };
    let parts = Parts::make(layers, writable, target, &mapped, namespace)?;
    match overlay_of(target, &parts) {
        // Before Linux 6.15 layers must be attached somewhere.
        Err(MountError::Mount {
            source: Errno::EINVAL,
            ..
        }) if !mapped.is_empty() => overlay_of_attached(target, &parts, &mapped, writable),
        done => done,
    }
}

fn overlay_of(target: &Path, parts: &Parts) -> Result<(), MountError> {
    match overlay_by_parameters(target, parts) {
        // `lowerdir+` came with Linux 6.7.
        Err(MountError::Mount {
            source: Errno::EINVAL,
            explanation,
            ..
        }) => overlay_by_options(target, parts, explanation),
        done => done,
    }
}

/// The overlay has mounts of its own of what it is made of: theirs are attached only while it is made.
pub(super) fn overlay_of_attached(
    target: &Path,
    parts: &Parts,
    mapped: &[Mapped],
    writable: &Path,
) -> Result<(), MountError> {
    let point = writable.join("layers");
    fs::create_dir(&point).map_err(|source| MountError::Writable {
        path: point.clone(),
        source,
    })?;
    let attached = mapped.iter().try_for_each(|mapped| mapped.attach(&point));
    let made = attached.and_then(|()| overlay_of(target, parts));
    let undone = mapped.iter().try_for_each(|_| detach(&point));
    let removed = undone.and_then(|()| {
        fs::remove_dir(&point).map_err(|source| MountError::Writable {
            path: point.clone(),
            source,
        })
    });
    made.and(removed)
}

fn detach(path: &Path) -> Result<(), MountError> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
        // One that was not attached.
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(source) => Err(MountError::Unmount {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A folder that is held open, so that it is the one that was checked.
struct Folder {
    fd: OwnedFd,
    /// A path that leads here: in the table of mounts it says more than a number, and is how layers in use are known.
    path: PathBuf,
}

const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

fn unusable(path: &Path, source: Errno) -> MountError {
    MountError::Layer {
        path: path.to_owned(),
        source: source.into(),
    }
}

/// The folder that layers are in, by a mount of its own that maps their owners.
pub(super) struct Mapped {
    folder: PathBuf,
    mount: Detached,
}

impl Mapped {
    /// One for each folder that any of the layers is in, which is the same for all as images are stored.
    pub(super) fn all(layers: &[PathBuf], namespace: &UserNamespace) -> Result<Vec<Self>, MountError> {
        let failed = |act| {
            move |source| MountError::UserNamespace {
                act,
                path: namespace.path.clone(),
                source,
            }
        };
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let user = open(&namespace.path, flags, Mode::empty()).map_err(failed("open"))?;
        let mut all: Vec<Self> = Vec::new();
        for layer in layers {
            let folder = layer.parent().unwrap_or(Path::new("/"));
            if all.iter().any(|mapped| mapped.folder == folder) {
                continue;
            }
            let mount = Detached::copy_of(folder).map_err(|source| unusable(folder, source))?;
            mount
                .map(user.as_fd())
                .map_err(failed("have layers owned as it is said in"))?;
            all.push(Self {
                folder: folder.to_owned(),
                mount,
            });
        }
        Ok(all)
    }

    /// The layer, where it is in here.
    fn folder(&self, layer: &Path) -> Option<Result<Folder, MountError>> {
        let name = layer.strip_prefix(&self.folder).ok()?;
        let opened = openat(&self.mount, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty());
        Some(match opened {
            Ok(fd) => Ok(Folder {
                fd,
                path: Path::new(&link(&self.mount)).join(name),
            }),
            Err(source) => Err(unusable(layer, source)),
        })
    }

    fn attach(&self, point: &Path) -> Result<(), MountError> {
        self.mount
            .attach(point)
            .map_err(|source| unusable(&self.folder, source))
    }
}

impl Folder {
    fn open(path: &Path) -> Result<Self, MountError> {
        match open(path, FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Self {
                fd,
                path: path.to_owned(),
            }),
            Err(source) => Err(unusable(path, source)),
        }
    }

    /// The path where the kernel takes it as it is.
    fn name(&self) -> String {
        let is_plain = |path: &&str| path.len() < MAX_VALUE && !path.contains(['\\', ':', ',']);
        self.path
            .to_str()
            .filter(is_plain)
            .map_or_else(|| link(&self.fd), str::to_owned)
    }
}

/// Short, and without any character that means something in an option.
fn link(folder: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())
}

/// What an overlay is made of.
pub(super) struct Parts {
    /// Highest first.
    layers: Vec<Folder>,
    upper: Folder,
    work: Folder,
}

impl Parts {
    pub(super) fn make(
        layers: &[PathBuf],
        writable: &Path,
        target: &Path,
        mapped: &[Mapped],
        namespace: Option<&UserNamespace>,
    ) -> Result<Self, MountError> {
        let open = |path: &PathBuf| {
            let mut found = mapped.iter().filter_map(|mapped| mapped.folder(path));
            found.next().unwrap_or_else(|| Folder::open(path))
        };
        let layers: Result<Vec<Folder>, MountError> = layers.iter().rev().map(open).collect();
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
        resemble(&upper, &top.path, namespace).map_err(|source| MountError::Writable {
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

/// The root of a container has the owner and mode of its highest layer. Where the owner has no place in the user
/// namespace, it is root's.
fn resemble(upper: &Path, top: &Path, namespace: Option<&UserNamespace>) -> io::Result<()> {
    let root = fs::metadata(top)?;
    let own = |id| match namespace {
        Some(namespace) if !namespace.ids.has(id) => namespace.ids.root(),
        Some(_) | None => id,
    };
    std::os::unix::fs::chown(upper, Some(own(root.uid())), Some(own(root.gid())))?;
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
pub(super) fn overlay_by_options(
    target: &Path,
    parts: &Parts,
    explanation: String,
) -> Result<(), MountError> {
    let failed = |act: &str, source| MountError::Mount {
        filesystem: "overlay",
        target: target.to_owned(),
        act: act.to_owned(),
        explanation: explanation.clone(),
        source,
    };
    let all = |show: fn(&Folder) -> String| {
        let lower: Vec<String> = parts.layers.iter().map(show).collect();
        let (upper, work) = (show(&parts.upper), show(&parts.work));
        format!(
            "lowerdir={},upperdir={upper},workdir={work},volatile",
            lower.join(":")
        )
    };
    let shows: [fn(&Folder) -> String; 2] = [Folder::name, |folder| link(&folder.fd)];
    let options = shows
        .map(all)
        .into_iter()
        .find(|options| options.len() <= MAX_OPTIONS);
    let options = options.ok_or_else(|| failed("its layers are too many for this kernel", Errno::E2BIG))?;
    let (kind, none) = (Some(OVERLAY), MsFlags::empty());
    nix::mount::mount(kind, target, kind, none, Some(options.as_str()))
        .map_err(|source| failed("with its options", source))?;
    keep_private(target).map_err(|source| failed("keeping it private", source))
}

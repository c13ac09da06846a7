//! Whether this node can give sandboxes user namespaces: everything that a sandbox would need is done once, in a folder
//! beside theirs. Leaves nothing. Called when an agent starts.

use super::{IdRange, UserNamespace};
use crate::runtime::mount::{self, MountError, Tmpfs, unmount_below};
use crate::runtime::namespace::{NamespaceError, map_ids};
use crate::runtime::sys::pioneer::{Mounting, Pioneer, PioneerError};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use proto::budget::TmpfsLimit;
use proto::units::Bytes;
use std::ffi::CString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const PRIVATE: u32 = 0o700;
const CLOSED: u32 = 0o600;
/// Others may pass through it to what they know the name of.
const PASSABLE: u32 = 0o711;
/// What only a user namespace whose mounts hide nothing of the host's lets its root mount.
const FILESYSTEMS: [&str; 2] = ["proc", "sysfs"];

/// Why this node can't.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("there are no user ids for sandboxes")]
    NoIds,
    #[error("cannot make {}: {source}", path.display())]
    Make { path: PathBuf, source: io::Error },
    /// By the kernel, or what limits the agent itself.
    #[error("{0}; see the sysctl user.max_user_namespaces, and whether a security module forbids it")]
    Refused(String),
    #[error(transparent)]
    Ids(NamespaceError),
    #[error(
        "the layers of images can't have other owners within a user namespace, which takes Linux 5.19 and a file system \
         that allows it below {}, such as ext4, xfs or btrfs: {source}", path.display()
    )]
    Layers { path: PathBuf, source: MountError },
    #[error("a file of an image that is root's belongs to {found} within a user namespace of {wanted}")]
    Owner { found: u32, wanted: u32 },
    #[error(
        "root of a user namespace can't come to {}: its folders must be passable for everyone (chmod o+x)", .0.display()
    )]
    Path(PathBuf),
    #[error(
        "root of a user namespace may not mount {kind}, as within containers that hide parts of /proc or /sys: {source}"
    )]
    Filesystem { kind: &'static str, source: Errno },
    #[error("cannot remove what this was tried with, in {}: {what}", path.display())]
    Remove { path: PathBuf, what: String },
}

/// Tries it. `images` is where they are; the folder `dir` is made for it, and is to be on a path like those of sandboxes.
/// Blocks for some milliseconds.
///
/// # Errors
/// [`ProbeError`]: what is missing, and what to do about it.
pub fn probe(dir: &Path, images: &Path, ids: IdRange) -> Result<(), ProbeError> {
    // Of an attempt that was cut off.
    clear(dir, images)?;
    let probed = attempt(dir, images, ids);
    probed.and(clear(dir, images))
}

/// Lets the roots of user namespaces, who are anyone, pass through a folder. Nobody but root sees what is in it, and its
/// files are closed one by one: those that an older agent has made relied on the folder.
///
/// # Errors
/// [`ProbeError::Make`]
pub fn let_pass(folder: &Path) -> Result<(), ProbeError> {
    let close = || {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::set_permissions(entry.path(), Permissions::from_mode(CLOSED))?;
            }
        }
        fs::set_permissions(folder, Permissions::from_mode(PASSABLE))
    };
    close().map_err(unmade(folder))
}

/// In place of a layer.
fn sample(images: &Path) -> PathBuf {
    images.join("probe")
}

fn attempt(dir: &Path, images: &Path, ids: IdRange) -> Result<(), ProbeError> {
    let sample = sample(images);
    make_folder(dir, PASSABLE)?;
    make_folder(&sample, PRIVATE)?;
    fs::write(sample.join("file"), "").map_err(unmade(&sample))?;
    let targets = FILESYSTEMS.map(|kind| dir.join(kind));
    for target in &targets {
        make_folder(target, PASSABLE)?;
    }
    let mounts: Vec<Mounting> = FILESYSTEMS
        .iter()
        .zip(&targets)
        .filter_map(|(kind, target)| {
            Some(Mounting {
                kind: CString::new(*kind).ok()?,
                target: CString::new(target.as_os_str().as_bytes()).ok()?,
            })
        })
        .collect();
    let pioneer = Pioneer {
        namespaces: CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET,
        owner: ids.root(),
        mounts: &mounts,
    };
    let made = pioneer.explore(|pid| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        map_ids(&process, ids).map_err(ProbeError::Ids)?;
        let namespace = UserNamespace {
            path: process.join("ns/user"),
            ids,
        };
        check_layers(dir, &sample, &namespace)
    });
    let (checked, mounted) = made.map_err(|error: PioneerError| ProbeError::Refused(error.to_string()))?;
    checked?;
    match mounted {
        Ok(()) => Ok(()),
        Err((_, Errno::EACCES)) => Err(ProbeError::Path(dir.to_owned())),
        Err((done, source)) => Err(ProbeError::Filesystem {
            kind: FILESYSTEMS.get(done).copied().unwrap_or_default(),
            source,
        }),
    }
}

/// An overlay as that of a container.
fn check_layers(dir: &Path, sample: &Path, namespace: &UserNamespace) -> Result<(), ProbeError> {
    let failed = |source| ProbeError::Layers {
        path: sample.parent().unwrap_or(sample).to_owned(),
        source,
    };
    let [writable, target] = ["root", "rootfs"].map(|name| dir.join(name));
    make_folder(&writable, PRIVATE)?;
    make_folder(&target, PRIVATE)?;
    let wanted = Tmpfs {
        limit: TmpfsLimit::of(Bytes::mib(1)),
        mode: PRIVATE,
        owner: namespace.ids.root(),
        is_open: false,
    };
    mount::tmpfs(&writable, wanted).map_err(failed)?;
    let layers = [sample.to_owned()];
    mount::overlay(&target, &layers, &writable, Some(namespace)).map_err(failed)?;
    let found = fs::metadata(target.join("file")).map_err(unmade(&target))?.uid();
    let wanted = namespace.ids.root();
    (found == wanted)
        .then_some(())
        .ok_or(ProbeError::Owner { found, wanted })
}

fn clear(dir: &Path, images: &Path) -> Result<(), ProbeError> {
    let failed = |path: &Path, what: String| {
        let path = path.to_owned();
        ProbeError::Remove { path, what }
    };
    if let Some(fault) = unmount_below(&[dir]).first() {
        return Err(failed(dir, fault.to_string()));
    }
    for path in [dir, &sample(images)] {
        match fs::remove_dir_all(path) {
            Err(fault) if fault.kind() != io::ErrorKind::NotFound => {
                return Err(failed(path, fault.to_string()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn make_folder(path: &Path, mode: u32) -> Result<(), ProbeError> {
    let made = DirBuilder::new().recursive(true).mode(PRIVATE).create(path);
    made.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(unmade(path))
}

fn unmade(path: &Path) -> impl FnOnce(io::Error) -> ProbeError + use<'_> {
    move |source| ProbeError::Make {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::mount::tests::Mounts;

    fn ids() -> IdRange {
        IdRange::from(1 << 28).expect("a range")
    }

    #[test]
    fn this_kernel_gives_user_namespaces_and_nothing_is_left() {
        let mounts = Mounts::new();
        let_pass(mounts.path()).expect("set");
        let (dir, images) = (mounts.path().join("probe"), mounts.path().join("images"));
        for _ in 0..2 {
            probe(&dir, &images, ids()).expect("this machine's kernel can");
            assert_eq!(mounts.present(), Vec::<PathBuf>::new());
            assert!(!dir.exists());
            assert_eq!(fs::read_dir(&images).expect("it stays").count(), 0);
        }
    }

    #[test]
    fn folder_that_others_pass_has_no_file_that_they_can_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, below) = (folder.path().join("ledger"), folder.path().join("tls"));
        fs::write(&file, "secret").expect("written");
        make_folder(&below, PRIVATE).expect("made");
        let_pass(folder.path()).expect("set");
        for (path, mode) in [(folder.path(), PASSABLE), (&file, CLOSED), (&below, PRIVATE)] {
            assert_eq!(fs::metadata(path).expect("there").mode() & 0o777, mode);
        }
    }

    #[test]
    fn folder_that_others_cannot_pass_is_named() {
        let mounts = Mounts::new();
        fs::set_permissions(mounts.path(), Permissions::from_mode(PRIVATE)).expect("set");
        let (dir, images) = (mounts.path().join("probe"), mounts.path().join("images"));
        let refused = probe(&dir, &images, ids()).expect_err("it can't be reached");
        assert!(refused.to_string().contains("chmod o+x"), "{refused}");
        assert!(!dir.exists());
    }

    #[test]
    fn filesystem_without_mapped_owners_is_told() {
        let mounts = Mounts::new();
        let_pass(mounts.path()).expect("set");
        // One that has none of its own.
        let images = mounts.path().join("images");
        let (lower, upper) = (mounts.path().join("lower"), mounts.path().join("upper"));
        for path in [&images, &lower, &upper] {
            make_folder(path, PRIVATE).expect("made");
        }
        mount::overlay(&images, &[lower], &upper, None).expect("mounted");
        let refused = probe(&mounts.path().join("probe"), &images, ids()).expect_err("it can't");
        assert!(matches!(refused, ProbeError::Layers { .. }), "{refused}");
        assert!(refused.to_string().contains("such as ext4"), "{refused}");
    }
}

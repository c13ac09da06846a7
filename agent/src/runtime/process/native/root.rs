//! The filesystem that a container sees: mounts all of it below its root in a mount namespace of its own, and makes that
//! root `/`. By the node's root: what is mounted here can't be changed from within, in a user namespace not even with
//! every capability.

use super::fault::Fault;
use super::place::{Missing, find};
use super::plan::{HostIds, MountSource, Plan, PlannedMount};
use crate::runtime::cgroup::Cgroups;
use crate::runtime::sys::tree::{Copy, Restrictions, restrict};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchdir, fchownat, pivot_root, symlinkat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// By major and minor number; readable and writable for everyone. What of it may be opened, the control group says.
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const DEVICE_MODE: Mode = Mode::from_bits_truncate(0o666);
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];
/// What hides folders: it stays empty, and has no more than its own inode.
const EMPTY: &str = "size=4k,nr_inodes=1,mode=755";
/// What holds the folders of the trees of control groups.
const TREES: &str = "size=64k,nr_inodes=64,mode=755";
const EMPTY_FLAGS: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);
const READ_ONLY: Restrictions = Restrictions {
    set: libc::MOUNT_ATTR_RDONLY,
    clear: 0,
};

/// In a mount namespace that nobody else is in, which all mounts of the host are in as yet.
pub(super) fn enter(plan: &Plan, cgroups: &Cgroups) -> Result<(), Fault> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(Fault::doing("take its mounts apart from the node's"))?;
    let root = open(
        &plan.root,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(Fault::at("open", &plan.root))?;
    let making = Root {
        root,
        ids: plan.ids(),
    };
    for planned in &plan.mounts {
        making
            .mount(planned, cgroups)
            .map_err(Fault::at("mount", &planned.target))?;
        if planned.target == Path::new("/dev") {
            making.devices().map_err(Fault::doing("make its devices"))?;
        }
    }
    making.close(plan)?;
    if plan.is_read_only {
        restrict(making.root.as_fd(), READ_ONLY, false).map_err(Fault::doing("make its root read-only"))?;
    }
    change(&making.root).map_err(Fault::doing("change to its root"))
}

struct Root {
    root: OwnedFd,
    ids: HostIds,
}

impl Root {
    fn mount(&self, planned: &PlannedMount, cgroups: &Cgroups) -> Result<(), Errno> {
        match &planned.source {
            MountSource::Bind { path, whole } => {
                let copy = Copy::of(path, *whole)?;
                restrict(copy.as_fd(), planned.restrictions, *whole)?;
                let missing = match fstat(&copy)?.st_mode & libc::S_IFMT {
                    libc::S_IFDIR => Missing::Folder,
                    _ => Missing::File,
                };
                copy.attach(self.find(&planned.target, missing)?.as_fd())
            }
            MountSource::Filesystem { kind, flags, options } => {
                let target = self.find(&planned.target, Missing::Folder)?;
                mount_at(target.as_fd(), kind, *flags, options)?;
                self.restrict(&planned.target, planned.restrictions)
            }
            MountSource::Cgroup => self.cgroups(planned, &cgroups.trees_for_containers()),
        }
    }

    /// One tree, or a folder of them.
    fn cgroups(&self, planned: &PlannedMount, trees: &[String]) -> Result<(), Errno> {
        let target = self.find(&planned.target, Missing::Folder)?;
        if trees.is_empty() {
            mount_at(target.as_fd(), "cgroup2", MsFlags::empty(), "")?;
            return self.restrict(&planned.target, planned.restrictions);
        }
        let owner = format!("{TREES},uid={},gid={}", self.ids.uid, self.ids.gid);
        mount_at(target.as_fd(), "tmpfs", MsFlags::empty(), &owner)?;
        let folder = self.find(&planned.target, Missing::Folder)?;
        for tree in trees {
            let place = planned.target.join(tree);
            let target = self.find(&place, Missing::Folder)?;
            mount_at(target.as_fd(), "cgroup", MsFlags::empty(), tree)?;
            self.restrict(&place, planned.restrictions)?;
            // Programs look for each by its own name.
            for controller in tree.split(',').filter(|controller| *controller != tree) {
                symlinkat(tree.as_str(), &folder, controller)?;
            }
        }
        self.restrict(&planned.target, planned.restrictions)
    }

    fn devices(&self) -> Result<(), Errno> {
        let dev = self.find(Path::new("/dev"), Missing::Folder)?;
        let (uid, gid) = (Uid::from_raw(self.ids.uid), Gid::from_raw(self.ids.gid));
        let own = |name| {
            let link = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(&dev, name, Some(uid), Some(gid), link)
        };
        for (name, major, minor) in DEVICES {
            mknodat(&dev, name, SFlag::S_IFCHR, DEVICE_MODE, makedev(major, minor))?;
            own(name)?;
        }
        for (name, target) in LINKS {
            symlinkat(target, &dev, name)?;
            own(name)?;
        }
        Ok(())
    }

    /// Hides some paths, and makes some read-only. What is not there needs neither.
    fn close(&self, plan: &Plan) -> Result<(), Fault> {
        let null = Copy::of(Path::new("/dev/null"), false).map_err(Fault::doing("find /dev/null"))?;
        let mut empty: Option<OwnedFd> = None;
        for path in &plan.masked {
            let failed = || Fault::at("hide", path);
            let Some(there) = self.there(path).map_err(failed())? else {
                continue;
            };
            let is_folder = fstat(&there).map_err(failed())?.st_mode & libc::S_IFMT == libc::S_IFDIR;
            let cover = match (&empty, is_folder) {
                (_, false) => Copy::of_fd(null.as_fd(), false),
                (Some(empty), true) => Copy::of_fd(empty.as_fd(), false),
                (None, true) => {
                    mount_at(there.as_fd(), "tmpfs", EMPTY_FLAGS, EMPTY).map_err(failed())?;
                    empty = self.there(path).map_err(failed())?;
                    continue;
                }
            };
            let covered = cover.and_then(|cover| cover.attach(there.as_fd()));
            covered.map_err(failed())?;
        }
        for path in &plan.read_only {
            let failed = || Fault::at("make read-only", path);
            let Some(there) = self.there(path).map_err(failed())? else {
                continue;
            };
            let copy = Copy::of_fd(there.as_fd(), true).map_err(failed())?;
            restrict(copy.as_fd(), READ_ONLY, true).map_err(failed())?;
            copy.attach(there.as_fd()).map_err(failed())?;
        }
        Ok(())
    }

    /// The mount whose root is at `path`.
    fn restrict(&self, path: &Path, restrictions: Restrictions) -> Result<(), Errno> {
        let mounted = self.find(path, Missing::Folder)?;
        restrict(mounted.as_fd(), restrictions, false)
    }

    fn find(&self, path: &Path, missing: Missing) -> Result<OwnedFd, Errno> {
        find(self.root.as_fd(), path, missing, self.ids)
    }

    fn there(&self, path: &Path) -> Result<Option<OwnedFd>, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let below: PathBuf = path.components().skip(1).collect();
        match openat2(&self.root, &below, how) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// Mounts a filesystem on top of what `target` stands for.
fn mount_at(target: BorrowedFd<'_>, kind: &str, flags: MsFlags, options: &str) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    mount(Some(kind), path.as_str(), Some(kind), flags, Some(options))
}

/// Makes it `/`, and lets go of all else.
fn change(root: &OwnedFd) -> Result<(), Errno> {
    fchdir(root)?;
    // The old root lands on top of the new one, from where it is taken away with all that was in it.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

//! Where something is mounted in a container's root: found, or made where it is missing. The root's files are a
//! stranger's: links are followed as if the root were `/`, one name at a time, and never out of it.

use super::plan::HostIds;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

/// As many as the kernel follows in a path.
const MAX_LINKS: usize = 40;
const FOLDER_MODE: Mode = Mode::from_bits_truncate(0o755);
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);

/// What is made at the end of a path where nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Folder,
    File,
}

/// What is at `path` below `root`, opened with O_PATH; what is missing is made, and belongs to the container's root.
/// Nobody else may change the tree meanwhile. The process' umask must be 0.
///
/// # Errors
/// `ELOOP` beyond 40 links, else as of openat(2) and mkdirat(2).
pub(super) fn find(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
    ids: HostIds,
) -> Result<OwnedFd, Errno> {
    let mut names = names(path);
    let mut above = vec![root.try_clone_to_owned().map_err(|_| Errno::EMFILE)?];
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            if above.len() > 1 {
                above.pop();
            }
            continue;
        }
        let Some(folder) = above.last() else {
            return Err(Errno::ENOENT);
        };
        let kind = if names.is_empty() {
            missing
        } else {
            Missing::Folder
        };
        let found = open_or_make(folder.as_fd(), &name, kind, ids)?;
        if is_link(&found)? {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP);
            }
            let target = readlinkat(&found, "")?;
            let target = Path::new(&target);
            if target.is_absolute() {
                above.truncate(1);
            }
            for name in self::names(target).into_iter().rev() {
                names.push_front(name);
            }
        } else {
            above.push(found);
        }
    }
    above.pop().ok_or(Errno::ENOENT)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn open_or_make(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    missing: Missing,
    ids: HostIds,
) -> Result<OwnedFd, Errno> {
    let look = || {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(folder, name, flags, Mode::empty())
    };
    match look() {
        Err(Errno::ENOENT) => {}
        found => return found,
    }
    match missing {
        Missing::Folder => mkdirat(folder, name, FOLDER_MODE)?,
        Missing::File => {
            let flags =
                OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            drop(openat(folder, name, flags, FILE_MODE)?);
        }
    }
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    look()
}

fn is_link(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    #[track_caller]
    fn check(root: &Path, path: &str, missing: Missing, want: Result<&str, Errno>) {
        let fd = std::fs::File::open(root).expect("a root");
        let found = find(fd.as_fd(), Path::new(path), missing, HostIds::default());
        let found = found.map(|fd| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            std::fs::read_link(link).expect("a path")
        });
        let want = want.map(|want| root.join(want));
        assert_eq!(found, want, "{path}");
    }

    #[test]
    fn paths_stay_in_the_root_whatever_links_say() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path").join("root");
        std::fs::create_dir_all(root.join("etc")).expect("made");
        std::fs::create_dir(folder.path().join("outside")).expect("made");
        symlink("../../outside", root.join("up")).expect("linked");
        symlink("/etc", root.join("absolute")).expect("linked");
        symlink("../run/stub.conf", root.join("etc/dangling")).expect("linked");
        symlink("loop", root.join("loop")).expect("linked");
        std::fs::write(root.join("file"), "").expect("written");
        check(&root, "/etc", Missing::Folder, Ok("etc"));
        check(&root, "/absolute/hosts", Missing::File, Ok("etc/hosts"));
        check(&root, "/up/x", Missing::Folder, Ok("outside/x"));
        check(&root, "/etc/../../../new/deep", Missing::Folder, Ok("new/deep"));
        check(&root, "/etc/dangling", Missing::File, Ok("run/stub.conf"));
        check(&root, "/loop", Missing::Folder, Err(Errno::ELOOP));
        check(&root, "/file/x", Missing::Folder, Err(Errno::ENOTDIR));
        assert!(root.join("etc/hosts").is_file() && root.join("run/stub.conf").is_file());
        let left = std::fs::read_dir(folder.path().join("outside")).expect("read");
        assert_eq!(left.count(), 0, "nothing was made outside");
    }
}

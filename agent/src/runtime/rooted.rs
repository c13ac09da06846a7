//! Changes below one directory that can't be led out of it: the kernel resolves each path as if that
//! directory were `/`, so that neither `..` nor a symbolic link, absolute or not, leaves it.
//!
//! Layers and root filesystems are made by strangers: `image` writes and `user` reads through this. Knows nothing of either.

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// How often a lookup may be disturbed by a rename elsewhere on the machine (`EAGAIN`) before it is given up.
const LOOKUPS: usize = 128;
/// Of a directory that an archive did not describe.
const PARENT_MODE: u32 = 0o755;
/// The deepest directory. Removing a tree takes an open file and stack for each level; real trees are at
/// most some 50 levels deep.
const MAX_DEPTH: usize = 256;

/// A directory as a root.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

/// A name in a directory that lies below the root; the name itself is never followed.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) parent: OwnedFd,
    pub(crate) name: OsString,
}

/// `path` without its root and `.`; `None` where it contains `..` or a NUL byte, or is too deep.
pub(crate) fn clean(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    let harmless =
        !clean.as_os_str().as_encoded_bytes().contains(&0) && clean.components().count() <= MAX_DEPTH;
    harmless.then_some(clean)
}

impl Root {
    /// # Errors
    /// Where `path` is no directory.
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let fd = open(
            path,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self { fd })
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Opens what is at `path`, following links as if the root were `/`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP` and such, as of open(2).
    pub(crate) fn open_at(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        self.open_resolved(path, flags, resolve)
    }

    /// The place of a [`clean`] path that is not empty, its missing parents made.
    ///
    /// # Errors
    /// `ENOTDIR` or `ENOENT` where a parent is a file or a link to nowhere, `ENAMETOOLONG` where it is too deep.
    pub(crate) fn place(&self, path: &Path) -> Result<Place, Errno> {
        let name = path.file_name().ok_or(Errno::EINVAL)?.to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = match self.open_folder(parent) {
            Err(Errno::ENOENT) => {
                self.make_parents(parent)?;
                self.open_folder(parent)?
            }
            found => found?,
        };
        Ok(Place { parent, name })
    }

    fn open_folder(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let straight = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        match self.open_resolved(path, flags, straight) {
            Err(Errno::ELOOP) => {}
            done => return done,
        }
        // Through links a short path can be a deep place.
        let fd = self.open_at(path, flags)?;
        let depth = |fd: &OwnedFd| {
            let real = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            real.map(|p| p.components().count())
                .map_err(|_| Errno::ENAMETOOLONG)
        };
        if depth(&fd)?.saturating_sub(depth(&self.fd)?) >= MAX_DEPTH {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(fd)
    }

    fn open_resolved(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        for _ in 1..LOOKUPS {
            match openat2(&self.fd, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                done => return done,
            }
        }
        openat2(&self.fd, path, how)
    }

    fn make_parents(&self, path: &Path) -> Result<(), Errno> {
        let mut made = PathBuf::new();
        for component in path.components() {
            let above = self.open_folder(&made)?;
            made.push(component);
            let mode = Mode::from_bits_truncate(PARENT_MODE);
            match mkdirat(&above, component.as_os_str(), mode) {
                // The process' mask has no say in a layer.
                Ok(()) => fchmodat(&above, component.as_os_str(), mode, FchmodatFlags::FollowSymlink)?,
                Err(Errno::EEXIST) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }
}

impl Place {
    /// What is there; `None`: nothing.
    ///
    /// # Errors
    /// As of fstatat(2).
    pub(crate) fn stat(&self) -> Result<Option<FileStat>, Errno> {
        match fstatat(&self.parent, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Opens what is there, unless that is a link.
    ///
    /// # Errors
    /// `ELOOP` for a link, else as of openat(2).
    pub(crate) fn open(&self, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        openat(
            &self.parent,
            self.name.as_os_str(),
            flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            mode,
        )
    }

    /// Removes what is there with all below it; nothing there is fine.
    ///
    /// # Errors
    /// As of unlinkat(2).
    pub(crate) fn remove(&self) -> Result<(), Errno> {
        match self.stat()? {
            None => Ok(()),
            Some(stat) if is(&stat, SFlag::S_IFDIR) => {
                // The standard library descends by file descriptors and follows no link below this.
                let folder = Path::new("/proc/self/fd").join(self.parent.as_raw_fd().to_string());
                std::fs::remove_dir_all(folder.join(&self.name))
                    .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
            }
            Some(_) => unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir),
        }
    }
}

/// Whether `stat` is of that kind.
pub(crate) fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

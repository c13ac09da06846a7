//! One directory as an open file. Each step goes to a name right in it, or down a path without a link on it.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How often a lookup may be disturbed by a rename elsewhere on the machine (`EAGAIN`) before it is given up.
const LOOKUPS: usize = 128;
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// An open directory.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// Opens it by a path that is trusted.
    ///
    /// # Errors
    /// As of open(2).
    pub fn open(path: &Path) -> Result<Self, Errno> {
        open(path, DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens it by a path from `folder` on that is trusted, such as one in `/proc`.
    ///
    /// # Errors
    /// As of openat(2).
    pub fn at(folder: impl AsFd, path: &Path) -> Result<Self, Errno> {
        openat(folder, path, DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens it by a path within this one, as if this one were `/` for `..` and links.
    ///
    /// # Errors
    /// As of openat2(2).
    pub fn inside(&self, path: &Path) -> Result<Self, Errno> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        self.resolve(path, resolve)
    }

    /// Opens it by a path of plain names below this one; the empty path is this one. `ELOOP` for a link.
    pub(crate) fn below(&self, path: &Path) -> Result<Self, Errno> {
        self.resolve(
            path,
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
        )
    }

    fn resolve(&self, path: &Path, resolve: ResolveFlag) -> Result<Self, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let how = OpenHow::new().flags(DIRECTORY).resolve(resolve);
        for _ in 1..LOOKUPS {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                done => return done.map(Self),
            }
        }
        openat2(&self.0, path, how).map(Self)
    }

    /// What is there under a name, links not followed; `None`: nothing.
    ///
    /// # Errors
    /// As of fstatat(2).
    pub fn stat(&self, name: &OsStr) -> Result<Option<FileStat>, Errno> {
        match fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// A file to read, with what it is. `None`: it is no regular file any more. Never waits for the writer of a pipe.
    pub(crate) fn read(&self, name: &OsStr) -> Result<Option<(File, FileStat)>, Errno> {
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = match openat(&self.0, name, flags, Mode::empty()) {
            // A link, or a socket, has taken its place.
            Err(Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            opened => opened?,
        };
        let stat = fstat(&file)?;
        Ok(is(&stat, SFlag::S_IFREG).then(|| (File::from(file), stat)))
    }

    /// A new file to write.
    pub(crate) fn create(&self, name: &OsStr) -> Result<File, Errno> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.0, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
    }

    /// Makes a directory, for its maker alone as yet.
    pub(crate) fn make(&self, name: &OsStr) -> Result<(), Errno> {
        mkdirat(&self.0, name, Mode::S_IRWXU)
    }

    pub(crate) fn link(&self, name: &OsStr) -> Result<OsString, Errno> {
        readlinkat(&self.0, name)
    }

    /// The names in it, sorted.
    pub(crate) fn names(&self) -> Result<Vec<OsString>, Errno> {
        // Its own position, so that it may be listed again.
        let mut dir = Dir::openat(&self.0, ".", DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether `stat` is of that kind.
pub(crate) fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

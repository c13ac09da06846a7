//! Copies of what is mounted, and the restrictions of mounts. Linux 5.12 and later.

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// What a mount shall have from now on, and what no longer: bits of `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Restrictions {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

/// A copy of what is mounted at a path, attached nowhere yet; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Copy(OwnedFd);

impl Copy {
    /// Of what is at `path`; `whole`: with all that is mounted below.
    ///
    /// # Errors
    /// As of open_tree(2).
    pub(crate) fn of(path: &Path, whole: bool) -> Result<Self, Errno> {
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
        Self::open(libc::AT_FDCWD, &path, 0, whole)
    }

    /// Of what a descriptor stands for.
    ///
    /// # Errors
    /// As of open_tree(2).
    pub(crate) fn of_fd(fd: BorrowedFd<'_>, whole: bool) -> Result<Self, Errno> {
        Self::open(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH, whole)
    }

    fn open(fd: libc::c_int, path: &std::ffi::CStr, flags: libc::c_int, whole: bool) -> Result<Self, Errno> {
        let recursive = if whole { libc::AT_RECURSIVE } else { 0 };
        let flags = flags | recursive;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | flags.cast_unsigned();
        // SAFETY: the path is a C string that outlives the call; the kernel keeps no pointer to it.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, fd, path.as_ptr(), flags) };
        let fd = libc::c_int::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just given out this descriptor to this call; nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Attaches it on top of what `target` stands for.
    ///
    /// # Errors
    /// As of move_mount(2).
    pub(crate) fn attach(self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: both paths are empty C strings, as the flags demand.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                target.as_raw_fd(),
                c"".as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH,
            )
        };
        Errno::result(done).map(drop)
    }
}

impl AsFd for Copy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Restricts the mount whose root `mount` stands for; `whole`: and all that is mounted below.
///
/// # Errors
/// As of mount_setattr(2).
pub(crate) fn restrict(mount: BorrowedFd<'_>, restrictions: Restrictions, whole: bool) -> Result<(), Errno> {
    // SAFETY: zeroes are valid for this struct of numbers, and mean that nothing changes.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = restrictions.set;
    attributes.attr_clr = restrictions.clear;
    let recursive = if whole { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, as the flag demands, and the struct, which is only read, outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(done).map(drop)
}

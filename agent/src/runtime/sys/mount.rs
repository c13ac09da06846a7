//! The mount interface of Linux 5.2 and later: a filesystem is described parameter by parameter, made, and
//! then attached. Unlike mount(2) its parameters are not cut off after one page. Used by `runtime::mount`.

use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The kernel copies no more of a parameter's value, its final NUL counted (`strndup_user` in fsconfig(2)).
pub(crate) const MAX_VALUE: usize = 256;
/// What the kernel explains about one refused parameter; it keeps at most 8 lines.
const MAX_MESSAGES: usize = 8;
const MAX_MESSAGE: usize = 1_024;

/// A filesystem that is being described.
#[derive(Debug)]
pub(crate) struct Context(OwnedFd);

/// Restrictions of one mount, whatever its filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attributes {
    None,
    NosuidNodev,
}

impl Attributes {
    fn bits(self) -> u64 {
        match self {
            Self::None => 0,
            Self::NosuidNodev => libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        }
    }
}

impl Context {
    /// # Errors
    /// `ENODEV` where the kernel has no such filesystem, else as of fsopen(2).
    pub(crate) fn open(filesystem: &CStr) -> Result<Self, Errno> {
        // SAFETY: the name is a C string that outlives the call; the kernel keeps no pointer to it.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, filesystem.as_ptr(), libc::FSOPEN_CLOEXEC) };
        owned(fd).map(Self)
    }

    /// Sets `key` to `value`, which is at most [`MAX_VALUE`] - 1 bytes.
    ///
    /// # Errors
    /// `EINVAL` for a parameter or value that the kernel does not know; the context stays usable.
    pub(crate) fn set(&self, key: &CStr, value: &CStr) -> Result<(), Errno> {
        self.configure(libc::FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Sets the flag `key`.
    ///
    /// # Errors
    /// As of [`Self::set`].
    pub(crate) fn flag(&self, key: &CStr) -> Result<(), Errno> {
        self.configure(libc::FSCONFIG_SET_FLAG, Some(key), None)
    }

    /// Makes the filesystem and a mount of it, attached nowhere yet.
    ///
    /// # Errors
    /// As of fsconfig(2) and fsmount(2).
    pub(crate) fn mount(&self, attributes: Attributes) -> Result<Detached, Errno> {
        self.configure(libc::FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: fsmount(2) takes a file descriptor and two numbers, and no pointer.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attributes.bits(),
            )
        };
        owned(fd).map(Detached)
    }

    /// What the kernel has to say about the last failure; empty where it says nothing.
    pub(crate) fn explanation(&self) -> String {
        let mut said = Vec::new();
        let mut buffer = [0; MAX_MESSAGE];
        while said.len() < MAX_MESSAGES
            && let Ok(length) = nix::unistd::read(self.0.as_fd(), &mut buffer)
            && length > 0
        {
            said.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        }
        said.join("; ")
    }

    fn configure(
        &self,
        command: libc::fsconfig_command,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> Result<(), Errno> {
        let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: key and value are C strings that outlive the call, or null where the command takes none;
        // the kernel copies both.
        let done = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                0,
            )
        };
        Errno::result(done).map(drop)
    }
}

/// A mount that is attached nowhere; dropped before it is, it is gone.
#[derive(Debug)]
pub(crate) struct Detached(OwnedFd);

impl Detached {
    /// A further mount of the folder at `path`, without what is mounted below.
    ///
    /// # Errors
    /// As of open_tree(2).
    pub(crate) fn copy_of(path: &Path) -> Result<Self, Errno> {
        let path = text(path)?;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: the path is a C string that outlives the call; the kernel keeps no pointer to it.
        let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        owned(fd).map(Self)
    }

    /// From now on its files belong by it to whom the user namespace says; once, before it is attached.
    ///
    /// # Errors
    /// `EINVAL` where its filesystem can't, else as of mount_setattr(2).
    pub(crate) fn map(&self, user_namespace: BorrowedFd<'_>) -> Result<(), Errno> {
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: u64::try_from(user_namespace.as_raw_fd()).map_err(|_| Errno::EBADF)?,
        };
        // SAFETY: the path is empty as the flag demands, and `attributes`, which the kernel only reads, is as long as is
        // said and outlives the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        Errno::result(done).map(drop)
    }

    /// Attaches it at `target`, on top of what is there. A link at `target` is not followed.
    ///
    /// # Errors
    /// As of move_mount(2).
    pub(crate) fn attach(&self, target: &Path) -> Result<(), Errno> {
        let target = text(target)?;
        // SAFETY: both paths are C strings that outlive the call, the first one empty as the flag demands.
        let done = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        };
        Errno::result(done).map(drop)
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn text(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

fn owned(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = libc::c_int::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given out this descriptor to this call; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

//! A process by file descriptor: unlike its number it never comes to mean another process, and its end can
//! be waited for by who is not its parent. Linux 5.3 and later.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Readable once the process has ended.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// # Errors
    /// `ESRCH` where there is no such process, else as of pidfd_open(2).
    pub(crate) fn open(pid: Pid) -> Result<Self, Errno> {
        // SAFETY: pidfd_open(2) takes two numbers, and no pointer.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = libc::c_int::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just given out this descriptor to this call; nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// # Errors
    /// `ESRCH` where the process has ended, else as of pidfd_send_signal(2).
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        let info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: a null `info` is allowed: the kernel then fills it in as kill(2) does.
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                info,
                0,
            )
        };
        Errno::result(done).map(drop)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for PidFd {
    /// Of a descriptor that another process has opened as [`PidFd::open`] does.
    fn from(process: OwnedFd) -> Self {
        Self(process)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(process: PidFd) -> Self {
        process.0
    }
}

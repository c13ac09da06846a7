//! Terminals: their size, and both ends of a new one.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Either end will do. The foreground of the terminal gets SIGWINCH where it has changed.
///
/// # Errors
/// `ENOTTY` where it is no terminal.
pub(crate) fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<(), Errno> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open, and `size`, which the kernel only reads, outlives the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(done).map(drop)
}

/// The program's end of the terminal whose other end is `master`, fresh from its multiplexer. No path is looked up that
/// a stranger could have changed.
///
/// # Errors
/// `ENOTTY` where it is no terminal.
pub(crate) fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the number, which the kernel only reads, outlives the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    Errno::result(done)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes a number, and gives a descriptor.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just given out this descriptor to this call; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes it the terminal that controls the calling process' session, which it leads, and which has none yet.
///
/// # Errors
/// `EPERM` where that is not so.
pub(crate) fn control(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes a number: 0 does not steal it from another session.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    Errno::result(done).map(drop)
}

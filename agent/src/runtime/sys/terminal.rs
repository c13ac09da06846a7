//! The size of a terminal.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

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

//! Descriptors that came over a socket.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over one that recvmsg(2) has given out right now: each may be taken once.
pub(crate) fn received(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has made this descriptor for the message that was received, and nothing else owns it: callers
    // hand in what they have got from recvmsg(2), once.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

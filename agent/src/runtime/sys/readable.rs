//! Waiting for a file descriptor to have something to read, from async code.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Returns when `fd` can be read, and closes it. It must be of a kind that epoll knows: a pipe, socket, timer,
/// event, or inotify.
pub(crate) async fn readable(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` is an open descriptor, always the same one, until it is dropped, and what registers
    // it owns it.
    let registered = unsafe { AsyncFd::register(fd) }?;
    registered.readable().await.map(drop)
}

//! Division of a process that has one thread, and file descriptors that came in a packet.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{ForkResult, Pid, fork};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Why a process can't be divided.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForkError {
    #[error("cannot tell how many threads there are: {0}")]
    Count(std::io::Error),
    #[error("a process with {0} threads cannot be divided")]
    Threads(usize),
    #[error("cannot ignore the end of children: {0}")]
    Signal(Errno),
}

/// The right to divide this process.
#[derive(Debug)]
pub(crate) struct Single(());

/// Which one a process is after a division.
#[derive(Debug)]
pub(crate) enum Half {
    Parent(Pid),
    Child,
}

impl Single {
    /// For a process that has one thread, and starts no others. From now on its children end without being waited
    /// for.
    pub(crate) fn process() -> Result<Self, ForkError> {
        let threads = std::fs::read_dir("/proc/self/task")
            .map_err(ForkError::Count)?
            .count();
        if threads != 1 {
            return Err(ForkError::Threads(threads));
        }
        // SAFETY: an ignored signal runs no code of ours.
        unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map_err(ForkError::Signal)?;
        Ok(Self(()))
    }

    /// Divides it. The child waits for its own children again.
    pub(crate) fn fork(&self) -> Result<Half, Errno> {
        // SAFETY: the process has one thread, so that no lock is held by another that would not be there in the child,
        // and the child may do whatever the parent may.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Half::Parent(child)),
            ForkResult::Child => {
                // SAFETY: the default disposition runs no code of ours.
                unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
                Ok(Half::Child)
            }
        }
    }
}

/// A descriptor that has just been received in a packet.
pub(crate) fn received(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has made it for who receives the packet, who calls this once for each; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

//! The disposition of signals. Used where a program of someone else's is about to take the place of ours.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};

/// Who writes to a pipe that nobody reads is ended by SIGPIPE again, as every program but one in Rust expects.
/// An ignored signal stays ignored across execve(2).
pub(crate) fn restore_broken_pipe() -> Result<(), Errno> {
    // SAFETY: the default disposition runs no code of ours, so none that must be safe within a signal handler.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.map(drop)
}

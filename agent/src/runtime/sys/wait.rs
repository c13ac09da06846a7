//! Children that have ended. `nix` knows no real-time signals, and would lose a child that one has ended.

use nix::errno::Errno;
use nix::unistd::Pid;

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// 0..=255
    Code(i32),
    /// 1..=64
    Signal(i32),
}

/// Waits for a child that has ended already, if there is one; its number is free then.
pub(crate) fn next_ended_child() -> Result<Option<(Pid, Ended)>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is a number that outlives the call, which writes it.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let pid = match Errno::result(pid) {
        Ok(0) | Err(Errno::ECHILD) => return Ok(None),
        Ok(pid) => Pid::from_raw(pid),
        Err(fault) => return Err(fault),
    };
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Code(libc::WEXITSTATUS(status))
    };
    Ok(Some((pid, ended)))
}

//! The system calls that need `unsafe`: what a child does between fork and exec, and pidfds.
//! The only file of this crate where it is allowed.
#![allow(unsafe_code)]

use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Makes the child a session leader in the network namespace `netns`.
pub(super) fn detach_into(command: &mut tokio::process::Command, netns: File) {
    // SAFETY: between fork and exec only async-signal-safe things may be done. `setsid` and `setns` are bare
    // system calls; an `Errno` turns into an `io::Error` without allocating. `netns` is owned by the closure
    // and lives as long as the command.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            nix::sched::setns(&netns, CloneFlags::CLONE_NEWNET)?;
            Ok(())
        });
    }
}

/// A handle of the process that has this pid now. It becomes readable when the process ends.
///
/// # Errors
/// ESRCH where there is none.
pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and returns a new descriptor or -1; no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Signals the very process that the handle is of, whoever has its pid by now.
///
/// # Errors
/// ESRCH where it has ended.
pub(super) fn pidfd_send_signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    // SAFETY: integers and a null pointer, which the kernel documents as "no siginfo"; the descriptor is
    // open as long as it is borrowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            libc::c_long::from(pidfd.as_raw_fd()),
            libc::c_long::from(signal as i32),
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

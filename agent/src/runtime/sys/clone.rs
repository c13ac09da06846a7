//! A child that begins in namespaces of its own and, on version 2, in a control group: all in the one system call
//! that makes it. Linux 5.7 and later.

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Tells the kernel that `cgroup` counts; newer than `nix` knows.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloneError {
    #[error("cannot tell how many threads there are: {0}")]
    Count(io::Error),
    #[error("a process with {0} threads cannot have such a child")]
    Threads(usize),
    #[error(transparent)]
    Refused(#[from] Errno),
}

/// The right to make such children: the process has one thread, and starts no others.
#[derive(Debug)]
pub(crate) struct Alone(());

impl Alone {
    /// Looks into `/proc`, which must be that of the process' own namespace.
    ///
    /// # Errors
    /// [`CloneError`]
    pub(crate) fn check() -> Result<Self, CloneError> {
        let threads = std::fs::read_dir("/proc/self/task");
        let threads = threads.map_err(CloneError::Count)?.count();
        if threads != 1 {
            return Err(CloneError::Threads(threads));
        }
        Ok(Self(()))
    }

    /// Makes a child in new `namespaces`, which does `act` and ends with what that gives as its exit code. Its parent
    /// waits for it as for any child. Where `act` panics it ends with 101, as a program in Rust does.
    ///
    /// # Errors
    /// As of clone3(2); there is no child then.
    pub(crate) fn child(
        &self,
        namespaces: CloneFlags,
        cgroup: Option<BorrowedFd<'_>>,
        act: impl FnOnce() -> i32,
    ) -> Result<Pid, CloneError> {
        // SAFETY: zeroes are valid for this struct of numbers, and mean "none of it" to the kernel.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = u64::from(namespaces.bits().cast_unsigned());
        args.exit_signal = libc::SIGCHLD.cast_unsigned().into();
        if let Some(cgroup) = cgroup {
            args.flags |= INTO_CGROUP;
            args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
        }
        // SAFETY: without CLONE_VM this is a fork: the child goes on here with a copy of the memory and the same stack.
        // The process has one thread, so that no lock is held by another that would not be there in the child.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
        match i32::try_from(Errno::result(pid)?).map_err(|_| Errno::EOVERFLOW)? {
            0 => {
                // Nothing of what lies below on the stack may go on in the child.
                let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_or(101);
                // SAFETY: ends the process without running what the parent has registered for its own end.
                unsafe { libc::_exit(code) }
            }
            pid => Ok(Pid::from_raw(pid)),
        }
    }
}

//! What a process gives up before a program of a stranger's takes its place.

use nix::errno::Errno;
use std::os::fd::RawFd;

/// `KEYCTL_JOIN_SESSION_KEYRING`, of linux/keyctl.h.
const JOIN_SESSION_KEYRING: libc::c_int = 1;
/// The kernel's `BPF_MAXINSNS`: longer filters are refused.
const MAX_INSTRUCTIONS: usize = 4_096;
/// Of one instruction: `struct sock_filter`.
const INSTRUCTION: usize = size_of::<libc::sock_filter>();

/// Leaves the session's keys behind. A kernel without keys has none to leave.
pub(crate) fn leave_keys() -> Result<(), Errno> {
    let name: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for an anonymous keyring; the kernel reads nothing.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name) };
    match Errno::result(done) {
        Err(Errno::ENOSYS) => Ok(()),
        done => done.map(drop),
    }
}

/// Loads a filter of system calls, as the bytes of its instructions. Needs CAP_SYS_ADMIN, or no-new-privileges.
///
/// # Errors
/// `EINVAL` where it is no whole number of instructions, 1 to 4,096, or no filter; `EACCES` without the right to.
pub(crate) fn filter_calls(filter: &[u8], flags: u32) -> Result<(), Errno> {
    let count = filter.len() / INSTRUCTION;
    if !filter.len().is_multiple_of(INSTRUCTION) || count == 0 || count > MAX_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    let word = |at: usize| [filter[at], filter[at + 1]];
    let instructions: Vec<libc::sock_filter> = (0..filter.len())
        .step_by(INSTRUCTION)
        .map(|at| libc::sock_filter {
            code: u16::from_ne_bytes(word(at)),
            jt: filter[at + 2],
            jf: filter[at + 3],
            k: u32::from_ne_bytes([filter[at + 4], filter[at + 5], filter[at + 6], filter[at + 7]]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(count).map_err(|_| Errno::EINVAL)?,
        filter: instructions.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions, which outlive the call, and keeps no pointer to them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    Errno::result(done).map(drop)
}

/// All descriptors from `first` on end with the program that runs.
pub(crate) fn close_on_exec(first: RawFd) -> Result<(), Errno> {
    // SAFETY: close_range(2) takes three numbers; with this flag it closes nothing that is in use here.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(done).map(drop)
}

/// All signals are let through again, and do what they do to a new program.
pub(crate) fn restore_signals() -> Result<(), Errno> {
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    for kind in Signal::iterator().filter(|kind| !matches!(kind, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(kind, SigHandler::SigDfl) }?;
    }
    Ok(())
}

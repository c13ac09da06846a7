//! A mount namespace for a program of someone else's, made between fork(2) and execve(2), so that nothing of
//! ours is in it.

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::ffi::CStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs it in a mount namespace of its own, in which what is mounted at `path` is not. What is mounted in ours
/// later is seen there as far as mounts are shared; what is mounted there is never seen here. Where that can't
/// be, the program does not start.
pub(crate) fn hide(command: &mut Command, path: &'static CStr) {
    let prepare = move || Ok(without(path)?);
    // SAFETY: between fork and exec only what is safe in a signal handler may be called: these are three
    // system calls on constant C strings, which allocate nothing and take no lock.
    unsafe { command.pre_exec(prepare) };
}

fn without(path: &CStr) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Or the host would lose it, too, where its mounts are shared.
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&CStr>, c"/", None::<&CStr>, flags, None::<&CStr>)?;
    umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
}

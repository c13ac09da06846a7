//! What a process gives up on its way from the node's root to a program of a container, in an order in which each step
//! may still do what it needs to.

use super::fault::Fault;
use super::plan::HostIds;
use super::process::ProcessPlan;
use crate::runtime::sys::privilege::{close_on_exec, filter_calls, leave_keys, restore_signals};
use caps::{CapSet, CapsHashSet};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::resource::setrlimit;
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{Uid, chdir, fchown, setgroups, setresgid, setresuid};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

/// Where a kernel with AppArmor takes the profile for the next program; the second before Linux 5.8.
const APPARMOR: [&str; 2] = ["/proc/self/attr/apparmor/exec", "/proc/self/attr/exec"];
/// What the container's programs make is for others to read, as everywhere.
const UMASK: Mode = Mode::from_bits_truncate(0o022);
/// The first descriptor that is no standard stream.
const FIRST: i32 = 3;

/// What a process is to be bound by.
pub(super) struct Bounds<'a> {
    pub(super) process: &'a ProcessPlan,
    /// The user namespace to join.
    pub(super) user: Option<File>,
    /// A filter of system calls, with its flags.
    pub(super) filter: Option<(&'a [u8], u32)>,
}

/// Lets the container's user have what is written to and read from: a program may open its standard streams anew.
pub(super) fn hand_over(stream: impl AsFd, process: &ProcessPlan, ids: HostIds) -> Result<(), Fault> {
    let act = "hand over its standard streams";
    let kind = fstat(stream.as_fd()).map_err(Fault::doing(act))?.st_mode & libc::S_IFMT;
    let is_its_own = kind == libc::S_IFIFO
        || (kind == libc::S_IFCHR && nix::unistd::isatty(stream.as_fd()).unwrap_or(false));
    if !is_its_own {
        return Ok(());
    }
    let uid = Uid::from_raw(ids.uid.saturating_add(process.uid.as_raw()));
    match fchown(stream.as_fd(), Some(uid), None) {
        // Some filesystems know no owners, or no such one.
        Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) | Ok(()) => Ok(()),
        Err(source) => Err(Fault::Do { act, source }),
    }
}

/// All of it. What follows is the program.
pub(super) fn give_up(bounds: &Bounds<'_>) -> Result<(), Fault> {
    let process = bounds.process;
    leave_keys().map_err(Fault::doing("leave the node's keys behind"))?;
    if let Some(profile) = &process.apparmor {
        confine(profile).map_err(Fault::doing("set its AppArmor profile"))?;
    }
    for (resource, soft, hard) in &process.limits {
        setrlimit(*resource, *soft, *hard).map_err(Fault::doing("set its resource limits"))?;
    }
    if let Some(user) = &bounds.user {
        setns(user, CloneFlags::CLONE_NEWUSER).map_err(Fault::doing("enter its user namespace"))?;
    }
    chdir(&process.cwd).map_err(Fault::at("change to the folder", &process.cwd))?;
    let filter = || match bounds.filter {
        Some((filter, flags)) => {
            filter_calls(filter, flags).map_err(Fault::doing("set its system call filter"))
        }
        None => Ok(()),
    };
    if process.no_new_privileges {
        prctl::set_no_new_privs().map_err(Fault::doing("refuse new privileges"))?;
    } else {
        // Only root may set one then.
        filter()?;
    }
    become_user(process)?;
    // With the last right that it takes gone, and as little as can be after it.
    if process.no_new_privileges {
        filter()?;
    }
    Ok(())
}

fn become_user(process: &ProcessPlan) -> Result<(), Fault> {
    umask(UMASK);
    restore_signals().map_err(Fault::doing("restore its signals"))?;
    close_on_exec(FIRST).map_err(Fault::doing("close its other descriptors"))?;
    let missing = |_| Errno::EPERM;
    let bounding = caps::read(None, CapSet::Bounding).map_err(missing);
    let bounding = bounding.map_err(Fault::doing("read its capabilities"))?;
    for capability in bounding.difference(&process.bounding) {
        caps::drop(None, CapSet::Bounding, *capability)
            .map_err(missing)
            .map_err(Fault::doing("drop capabilities"))?;
    }
    prctl::set_keepcaps(true).map_err(Fault::doing("keep capabilities"))?;
    setgroups(&process.groups).map_err(Fault::doing("set its groups"))?;
    let (uid, gid) = (process.uid, process.gid);
    setresgid(gid, gid, gid).map_err(Fault::doing("set its group"))?;
    setresuid(uid, uid, uid).map_err(Fault::doing("set its user"))?;
    let set = |kind, set: &CapsHashSet| {
        caps::set(None, kind, set)
            .map_err(missing)
            .map_err(Fault::doing("set its capabilities"))
    };
    set(CapSet::Effective, &process.effective)?;
    set(CapSet::Permitted, &process.permitted)?;
    set(CapSet::Inheritable, &CapsHashSet::new())
}

fn confine(profile: &str) -> std::io::Result<()> {
    let open = |path: &&str| File::options().write(true).open(path);
    let mut file = match open(&APPARMOR[0]) {
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => open(&APPARMOR[1])?,
        file => file?,
    };
    file.write_all(format!("exec {profile}").as_bytes())
}

//! Which process a monitor is: its number alone would come to mean another one.

use crate::clock;
use crate::runtime::sys::pidfd::PidFd;
use nix::unistd::Pid;
use proto::wire::MonitorProcess;
use std::io;

/// Of the running process `pid`.
pub(super) fn of(pid: Pid) -> io::Result<MonitorProcess> {
    Ok(MonitorProcess {
        pid: pid.as_raw(),
        start_ticks: start_ticks(pid)?,
        boot_id: clock::boot_id()?,
    })
}

/// The process, unless it has ended.
pub(super) fn find(process: &MonitorProcess) -> io::Result<Option<PidFd>> {
    let pid = Pid::from_raw(process.pid);
    // Opened first: what is read next is of this process, or of none.
    let found = match PidFd::open(pid) {
        Ok(found) => found,
        Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL) => return Ok(None),
        Err(fault) => return Err(fault.into()),
    };
    match of(pid) {
        Ok(current) if current == *process => Ok(Some(found)),
        Ok(_) => Ok(None),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
        // What the kernel says where the process ends while its file is being read.
        Err(fault) if fault.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// When it was started, in clock ticks since the machine was: field 22 of its `stat`, of which the second,
/// the program's name in parentheses, may hold anything.
fn start_ticks(pid: Pid) -> io::Result<u64> {
    const BEHIND_NAME: usize = 22 - 3;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(BEHIND_NAME))
        .and_then(|ticks| ticks.parse().ok())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("/proc/{pid}/stat is malformed"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn process_is_found_until_it_has_ended() {
        let mut child = Command::new("/bin/busybox")
            .args(["sleep", "60"])
            .spawn()
            .expect("busybox-static is installed");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number"));
        let process = of(pid).expect("it runs");
        let is_found = |process: &MonitorProcess| find(process).expect("looked up").is_some();
        assert!(is_found(&process));
        let later = MonitorProcess {
            start_ticks: process.start_ticks + 1,
            ..process.clone()
        };
        assert!(!is_found(&later), "another process with this number");
        let before_boot = MonitorProcess {
            boot_id: "another".to_owned(),
            ..process.clone()
        };
        assert!(!is_found(&before_boot));
        child.kill().expect("killed");
        child.wait().expect("ended");
        assert!(!is_found(&process));
    }
}

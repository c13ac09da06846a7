//! Members' processes: started in their namespace, signalled and awaited by what can't be taken for another
//! process, also when the pid has been used again.

use super::DevError;
use super::plan::Member;
use super::sys;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A killed process is gone in milliseconds, unless the kernel is busy freeing its memory.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);
/// A signal reaches a process when it is next scheduled or leaves the kernel.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Nothing but its parent is told that a process has stopped.
const PAUSE_POLL: Duration = Duration::from_millis(1);
/// Lines of a log that are shown with a failure.
const LOG_TAIL_LINES: usize = 15;

/// A process for ever: its pid, and when that pid was given to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: u32,
    /// Clock ticks since boot, of /proc/PID/stat.
    start_time: u64,
    /// A pid and its start time may come again after a reboot.
    boot_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Running,
    Paused,
    Dead,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Dead => "dead",
        }
    }
}

impl Identity {
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let start_time = stat(pid)?.start_time;
        Ok(Self {
            pid,
            start_time,
            boot_id: boot_id()?,
        })
    }

    pub(super) fn state(&self) -> State {
        if boot_id().ok().as_deref() != Some(self.boot_id.as_str()) {
            return State::Dead;
        }
        match stat(self.pid) {
            Ok(stat) if stat.start_time != self.start_time => State::Dead,
            Ok(stat) => stat.state(),
            Err(_) => State::Dead,
        }
    }

    /// A handle of this process and no other; `None` where it has ended.
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        let handle = match sys::pidfd_open(self.pid) {
            Ok(handle) => handle,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(e) => return Err(e),
        };
        // The handle holds on to the process that has the pid now: is it ours?
        Ok((self.state() != State::Dead).then_some(handle))
    }

    /// Whether it was there to be signalled.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(handle) = self.open()? else {
            return Ok(false);
        };
        match sys::pidfd_send_signal(&handle, signal) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Stops it and waits until it no longer runs. Whether it was there.
    pub(super) async fn pause(&self) -> io::Result<bool> {
        if !self.signal(Signal::SIGSTOP)? {
            return Ok(false);
        }
        let deadline = tokio::time::Instant::now() + PAUSE_TIMEOUT;
        while self.state() == State::Running {
            if tokio::time::Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not stop"));
            }
            tokio::time::sleep(PAUSE_POLL).await;
        }
        Ok(true)
    }

    /// Kills it and waits until it has ended. Whether it was there.
    pub(super) fn kill(&self) -> io::Result<bool> {
        let Some(handle) = self.open()? else {
            return Ok(false);
        };
        match sys::pidfd_send_signal(&handle, Signal::SIGKILL) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(false),
            Err(e) => return Err(e),
        }
        wait_for_end(&handle, DEATH_TIMEOUT)?;
        Ok(true)
    }
}

/// Kills whoever has this pid and waits for its end; none there is none to kill.
pub(super) fn kill_pid(pid: u32) -> io::Result<()> {
    match Identity::of(pid) {
        Ok(identity) => identity.kill().map(drop),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(e) => Err(e),
    }
}

fn wait_for_end(handle: &OwnedFd, timeout: Duration) -> io::Result<()> {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, timeout) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end")),
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What `/proc` tells of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Of its first thread.
    letter: char,
    /// That have not ended yet, and the first one in any case.
    threads: u64,
    start_time: u64,
}

impl Stat {
    fn state(&self) -> State {
        match self.letter {
            // The others may still have its ports and locks.
            'Z' | 'X' if self.threads > 1 => State::Running,
            'Z' | 'X' => State::Dead,
            'T' | 't' => State::Paused,
            _ => State::Running,
        }
    }
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown form of stat"))
}

/// The name of the program, field 2, may hold spaces and parentheses: fields count from its last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    Some(Stat {
        letter: fields.next()?.chars().next()?,
        // State is field 3, the number of threads field 20, the start time field 22.
        threads: fields.nth(16)?.parse().ok()?,
        start_time: fields.nth(1)?.parse().ok()?,
    })
}

fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Starts a member in its namespace, in a session of its own, its output appended to its log.
pub(super) fn start(member: &Member) -> Result<(Child, Identity), DevError> {
    let failed = |source| DevError::Spawn {
        member: member.name.clone(),
        program: member.program.clone(),
        source,
    };
    let netns = File::open(member.netns()).map_err(DevError::io("open", member.netns()))?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(member.log())
        .map_err(DevError::io("open", member.log()))?;
    let mut command = Command::new(&member.program);
    command
        .args(&member.args)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log);
    // What a user has set for sbxctl is not meant for the members: their flags say all.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SBX_") {
            command.env_remove(name);
        }
    }
    sys::detach_into(&mut command, netns);
    let child = command.spawn().map_err(failed)?;
    let pid = child.id().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let identity = Identity::of(pid).map_err(failed)?;
    Ok((child, identity))
}

/// The end of a member's log, indented, for a person.
pub(super) fn log_tail(log: &Path) -> String {
    let text = match std::fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("  (read {}: {error})", log.display()),
    };
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    if tail.is_empty() {
        return format!("  ({} is empty)", log.display());
    }
    tail.iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A program beside the running one, or else on PATH.
pub(super) fn find_program(name: &'static str) -> Result<PathBuf, DevError> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(name)));
    let on_path = std::env::var_os("PATH")
        .map(|path| {
            std::env::split_paths(&path)
                .map(|dir| dir.join(name))
                .collect::<Vec<_>>()
        })
        .unwrap_or_default();
    beside
        .into_iter()
        .chain(on_path)
        .find(|path| path.is_file())
        .ok_or(DevError::NoBinary { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_program_with_a_nasty_name_is_read() {
        let text = "42 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        let stat = parse_stat(text).expect("read");
        assert_eq!((stat.letter, stat.threads, stat.start_time), ('S', 17, 777));
    }

    /// A replica that was killed a moment ago was taken for dead while it still had its port: the next one could not listen.
    #[test]
    fn process_whose_first_thread_has_ended_runs_until_all_have() {
        for (letter, threads, want) in [
            ('Z', 3, State::Running),
            ('Z', 1, State::Dead),
            ('X', 0, State::Dead),
            ('t', 2, State::Paused),
            ('D', 1, State::Running),
        ] {
            let stat = Stat {
                letter,
                threads,
                start_time: 0,
            };
            assert_eq!(stat.state(), want, "{letter} {threads}");
        }
    }

    #[test]
    fn recycled_pid_is_never_signalled() {
        let own = std::process::id();
        let mut stranger = Identity::of(own).unwrap();
        assert_eq!(stranger.state(), State::Running);
        stranger.start_time += 1;
        assert_eq!(stranger.state(), State::Dead);
        assert!(!stranger.signal(Signal::SIGKILL).unwrap());
        assert!(!stranger.kill().unwrap());
    }

    #[test]
    fn process_of_an_earlier_boot_is_dead() {
        let mut earlier = Identity::of(std::process::id()).unwrap();
        earlier.boot_id = "another".to_owned();
        assert_eq!(earlier.state(), State::Dead);
    }

    #[tokio::test]
    async fn process_is_paused_resumed_and_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.pause().await.unwrap());
        assert_eq!(identity.state(), State::Paused);
        assert!(identity.kill().unwrap());
        assert_eq!(identity.state(), State::Dead, "a zombie counts as dead");
        child.wait().unwrap();
        assert!(!identity.kill().unwrap());
    }
}

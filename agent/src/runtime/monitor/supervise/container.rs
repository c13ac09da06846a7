//! One container as the monitor sees it: its first process, its output on the way to its logs, the kernel's
//! notice of want of memory.

use super::allowance::Allowance;
use super::attachment::Attachment;
use super::course::Exit;
use super::say;
use crate::clock::{self, BootTime};
use crate::runtime::cgroup::OomWatch;
use crate::runtime::logs::{LogsError, Stream, Writer};
use crate::runtime::sys::pidfd::PidFd;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Pid, Uid, fchown};
use proto::wire::{ContainerState, ContainerStatus};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

/// As much as a pipe holds, so that one read empties it.
const BUFFER: usize = 64 << 10;
/// Reads of what an ended container has left: its pipes hold one buffer each, unless it made them larger.
const LAST_READS: usize = 32;

pub(super) struct Container {
    pub(super) status: ContainerStatus,
    pub(super) stage: Stage,
    pub(super) oom: Option<OomWatch>,
    outputs: [Option<File>; 2],
    logs: Writer,
    allowance: Allowance,
    /// Those who see what it writes.
    pub(super) attached: Vec<Attachment>,
    is_disk_complained_of: bool,
}

pub(super) enum Stage {
    Waiting,
    Created(Process),
    Started(Process),
    /// Ended, or never created.
    Over,
}

/// A container's first process, not waited for yet.
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) end: PidFd,
}

/// The writing ends of a container's pipes.
pub(super) struct Pipes {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

impl Container {
    /// Makes its pipes, which are `root`'s, who is root in the container.
    pub(super) fn new(status: ContainerStatus, logs: Writer, root: u32) -> io::Result<(Self, Pipes)> {
        let (stdout, from_stdout) = pipe(root)?;
        let (stderr, from_stderr) = pipe(root)?;
        let container = Self {
            status,
            stage: Stage::Waiting,
            oom: None,
            outputs: [Some(from_stdout), Some(from_stderr)],
            logs,
            allowance: Allowance::default(),
            attached: Vec::new(),
            is_disk_complained_of: false,
        };
        Ok((container, Pipes { stdout, stderr }))
    }

    pub(super) fn process(&self) -> Option<&Process> {
        match &self.stage {
            Stage::Created(process) | Stage::Started(process) => Some(process),
            Stage::Waiting | Stage::Over => None,
        }
    }

    /// The reading ends that are open, with their numbers.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let outputs = self.outputs.iter().enumerate();
        outputs.filter_map(|(number, output)| Some((number, output.as_ref()?.as_fd())))
    }

    /// When its output may be read again, where it has written more than its allowance.
    pub(super) fn quiet_until(&self) -> Option<BootTime> {
        self.allowance.next(BootTime::now())
    }

    /// Keeps what is in one pipe, at most [`BUFFER`]. False: there is nothing.
    pub(super) fn read(&mut self, number: usize, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(BUFFER, 0);
        let Some(output) = &mut self.outputs[number] else {
            return false;
        };
        let stream = STREAMS[number];
        match output.read(buffer) {
            Ok(length) if length > 0 => {
                for attachment in &mut self.attached {
                    attachment.write(number, &buffer[..length]);
                }
                let before = self.logs.written();
                let kept = self.logs.write(stream, &buffer[..length], SystemTime::now());
                self.allowance
                    .spend(self.logs.written() - before, BootTime::now());
                self.complain(kept);
                true
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => false,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => true,
            Ok(_) | Err(_) => {
                self.outputs[number] = None;
                let kept = self.logs.finish(stream);
                self.complain(kept);
                false
            }
        }
    }

    pub(super) fn started(&mut self) {
        if let Stage::Created(process) = std::mem::replace(&mut self.stage, Stage::Over) {
            self.stage = Stage::Started(process);
        }
        self.status.state = ContainerState::Running.into();
        self.status.started_at_ms = clock::wall().0;
    }

    /// Its first process has been waited for, and all others of its namespace have ended before.
    pub(super) fn ended(&mut self, exit: Exit, buffer: &mut Vec<u8>) {
        for (number, stream) in STREAMS.into_iter().enumerate() {
            let mut reads = 0;
            while reads < LAST_READS && self.read(number, buffer) {
                reads += 1;
            }
            if self.outputs[number].take().is_some() {
                let kept = self.logs.finish(stream);
                self.complain(kept);
            }
        }
        self.stage = Stage::Over;
        self.oom = None;
        self.status.state = ContainerState::Exited.into();
        self.status.exit_code = Some(exit.code());
        self.status.oom_killed = exit.oom_killed;
        self.status.finished_at_ms = clock::wall().0;
    }

    /// The kernel counts a kill before the process has ended.
    pub(super) fn oom_killed(&mut self) -> bool {
        match self.oom.as_mut().map(OomWatch::kills) {
            Some(Ok(kills)) => kills > 0,
            Some(Err(fault)) => {
                say(&fault);
                false
            }
            None => false,
        }
    }

    pub(super) fn lost_lines(&self) -> u64 {
        self.logs.lost()
    }

    /// Once: a full disk would fill the monitor's log next.
    fn complain(&mut self, kept: Result<(), LogsError>) {
        if let Err(fault) = kept
            && !std::mem::replace(&mut self.is_disk_complained_of, true)
        {
            say(&fault);
        }
    }
}

/// Lets root of a container open its own streams anew, as `/dev/stdout`, and the runtime give them to the container's user.
/// Only what nobody else has: a device such as `/dev/null` is the host's.
pub(super) fn hand_over(stream: BorrowedFd<'_>, root: u32) -> io::Result<()> {
    let kind = fstat(stream)?.st_mode & libc::S_IFMT;
    if root == 0 || !matches!(kind, libc::S_IFIFO | libc::S_IFSOCK) {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(root), Gid::from_raw(root));
    Ok(fchown(stream, Some(user), Some(group))?)
}

/// The writing end, and the reading end, which does not block.
fn pipe(owner: u32) -> io::Result<(OwnedFd, File)> {
    let (reader, writer) = io::pipe()?;
    hand_over(writer.as_fd(), owner)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((writer.into(), File::from(OwnedFd::from(reader))))
}

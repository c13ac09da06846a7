//! The processes that were started in containers beside their programs: one per connection of an agent, which holds its
//! other ends. Owns them from the order to their end. When the connection ends first, so do they: SIGHUP, and after a
//! grace SIGKILL, to all of their process group.
//!
//! A runtime's program starts them, one at a time, because each takes memory of the sandbox; the loop goes on meanwhile.

use super::container::Process;
use super::{exec, say, score};
use crate::clock::BootTime;
use crate::runtime::process::{self, Runtime};
use crate::runtime::sys::pidfd::PidFd;
use crate::runtime::sys::wait::Ended;
use nix::errno::Errno;
use nix::sys::signal::{self, Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp};
use proto::wire::{MonitorExec, MonitorGuestEnded};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A start takes some 50 ms; in a container without cpu time as long as that lets it. One that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// From SIGHUP to SIGKILL where nobody listens any more.
const GRACE: Duration = Duration::from_secs(2);
/// Words and environment together; the kernel's own limit is above it.
const MAX_WORDS: usize = 64 << 10;
/// Further ones that come before the process runs are dropped.
const MAX_SIGNALS: usize = 16;
const PRIVATE: u32 = 0o600;

#[derive(Default)]
pub(super) struct Execs {
    /// The monitor's.
    dir: PathBuf,
    next: u64,
    all: Vec<Exec>,
    /// Ended children that may turn out to be what a runtime's program has just started.
    strays: Vec<(Pid, Ended)>,
    /// By connection: to be told.
    ended: Vec<(u64, MonitorGuestEnded)>,
}

struct Exec {
    connection: u64,
    container: String,
    bundle: PathBuf,
    order: MonitorExec,
    files: Files,
    stage: Stage,
    /// Signals that came before it ran.
    signals: Vec<Signal>,
    /// The connection has ended.
    is_left: bool,
    kill_at: Option<BootTime>,
}

enum Stage {
    /// With its standard streams.
    Waiting(Vec<OwnedFd>),
    Starting {
        starter: Process,
        until: BootTime,
    },
    Running(Process),
    /// Told already.
    Over,
}

/// Of one exec, in the folder `exec` of the monitor.
struct Files {
    process: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

impl Files {
    fn of(dir: &Path, number: u64) -> Self {
        let path = |name: &str| dir.join("exec").join(format!("{number}.{name}"));
        Self {
            process: path("json"),
            pid: path("pid"),
            log: path("log"),
        }
    }

    fn remove(&self) {
        for path in [&self.process, &self.pid, &self.log] {
            match std::fs::remove_file(path) {
                Err(fault) if fault.kind() != io::ErrorKind::NotFound => {
                    say(format_args!("cannot remove {}: {fault}", path.display()));
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}

impl Execs {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            ..Default::default()
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Takes an order for a container that runs.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn take(
        &mut self,
        connection: u64,
        order: MonitorExec,
        bundle: &Path,
        streams: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let words = order.args.iter().chain(&order.env);
        if words.clone().map(|word| word.len() + 1).sum::<usize>() > MAX_WORDS {
            return Err(format!(
                "the command and its environment are longer than {MAX_WORDS} bytes"
            ));
        }
        if order.args.is_empty() || words.clone().any(|word| word.contains('\0')) {
            return Err("this is no command".to_owned());
        }
        if let Some(entry) = order
            .env
            .iter()
            .find(|entry| entry.find('=').is_none_or(|at| at == 0))
        {
            return Err(format!("env: `{entry}` is not KEY=VALUE"));
        }
        if streams.len() != if order.terminal.is_some() { 0 } else { 3 } {
            return Err("its standard streams are not what they should be".to_owned());
        }
        self.next += 1;
        self.all.push(Exec {
            connection,
            container: order.container.clone(),
            bundle: bundle.to_owned(),
            files: Files::of(&self.dir, self.next),
            order,
            stage: Stage::Waiting(streams),
            signals: Vec::new(),
            is_left: false,
            kill_at: None,
        });
        Ok(())
    }

    /// To the process of that connection, and all of its group; as soon as it runs.
    ///
    /// # Errors
    /// Why it is not done.
    pub(super) fn signal(&mut self, connection: u64, number: i32) -> Result<(), String> {
        let signal = Signal::try_from(number).map_err(|_| "there is no such signal".to_owned())?;
        let its = self.all.iter_mut().find(|exec| exec.connection == connection);
        let exec = its.ok_or_else(|| "it does not run".to_owned())?;
        match &exec.stage {
            Stage::Running(process) => kill(process.pid, signal),
            Stage::Waiting(_) | Stage::Starting { .. } if exec.signals.len() < MAX_SIGNALS => {
                exec.signals.push(signal);
            }
            Stage::Waiting(_) | Stage::Starting { .. } | Stage::Over => {}
        }
        Ok(())
    }

    /// Nobody listens to it any more.
    pub(super) fn hang_up(&mut self, connection: u64) {
        for exec in self.all.iter_mut().filter(|exec| exec.connection == connection) {
            exec.is_left = true;
            exec.hang_up();
        }
        self.tidy();
    }

    /// Starts what can be started, and ends what must be.
    pub(super) fn advance(&mut self, runtime: &mut dyn Runtime) {
        for exec in &mut self.all {
            exec.tick();
        }
        if self
            .all
            .iter()
            .any(|exec| matches!(exec.stage, Stage::Starting { .. }))
        {
            return;
        }
        self.strays.clear();
        let waiting = |exec: &Exec| matches!(exec.stage, Stage::Waiting(_));
        while let Some(index) = self.all.iter().position(waiting) {
            match self.all[index].start(&self.dir, runtime) {
                Ok(()) => return,
                Err(fault) => self.over(index, failed(&fault)),
            }
        }
        self.tidy();
    }

    /// When to advance next, whatever happens.
    pub(super) fn next(&self) -> Option<BootTime> {
        self.all.iter().filter_map(Exec::next).min()
    }

    /// What tells of their ends.
    pub(super) fn ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.iter().filter_map(|exec| match &exec.stage {
            Stage::Starting { starter: process, .. } | Stage::Running(process) => Some(process.end.as_fd()),
            Stage::Waiting(_) | Stage::Over => None,
        })
    }

    /// A child that is no container's has been waited for.
    pub(super) fn reaped(&mut self, pid: Pid, by: Ended) {
        let its = |exec: &Exec| match &exec.stage {
            Stage::Starting { starter: process, .. } | Stage::Running(process) => process.pid == pid,
            Stage::Waiting(_) | Stage::Over => false,
        };
        let Some(index) = self.all.iter().position(its) else {
            if self
                .all
                .iter()
                .any(|exec| matches!(exec.stage, Stage::Starting { .. }))
            {
                self.strays.push((pid, by));
            }
            return;
        };
        match &self.all[index].stage {
            Stage::Starting { .. } => self.started(index, by),
            Stage::Running(_) | Stage::Waiting(_) | Stage::Over => self.over(index, exited(by)),
        }
        self.tidy();
    }

    /// What agents are to be told since this was asked last.
    pub(super) fn take_ended(&mut self) -> Vec<(u64, MonitorGuestEnded)> {
        std::mem::take(&mut self.ended)
    }

    /// The runtime's program has ended.
    fn started(&mut self, index: usize, by: Ended) {
        let exec = &mut self.all[index];
        let pid = match by {
            Ended::Code(0) => read_pid(&exec.files.pid),
            Ended::Code(_) => Err(process::reason(&exec.files.log)),
            Ended::Signal(_) => Err(format!("it was not started within {} s", PATIENCE.as_secs())),
        };
        exec.files.remove();
        let pid = match pid {
            Ok(pid) => pid,
            Err(why) => return self.over(index, failed(&why)),
        };
        if let Some((_, by)) = self.strays.iter().find(|(stray, _)| *stray == pid) {
            let by = *by;
            return self.over(index, exited(by));
        }
        // A child that nobody has waited for keeps its number.
        match PidFd::open(pid) {
            Ok(end) => {
                exec.stage = Stage::Running(Process { pid, end });
                for signal in exec.signals.drain(..) {
                    kill(pid, signal);
                }
                if exec.is_left {
                    exec.hang_up();
                }
            }
            Err(fault) => self.over(index, failed(&format!("cannot watch process {pid}: {fault}"))),
        }
    }

    fn over(&mut self, index: usize, how: MonitorGuestEnded) {
        let exec = &mut self.all[index];
        exec.files.remove();
        exec.stage = Stage::Over;
        if !exec.is_left {
            self.ended.push((exec.connection, how));
        }
    }

    fn tidy(&mut self) {
        self.all.retain(|exec| !matches!(exec.stage, Stage::Over));
    }
}

impl Exec {
    fn start(&mut self, dir: &Path, runtime: &mut dyn Runtime) -> Result<(), String> {
        let Stage::Waiting(streams) = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Ok(());
        };
        let process = exec::process(&self.bundle, &self.order)?;
        let write = |source: io::Error| format!("cannot write {}: {source}", self.files.process.display());
        let mut folder = std::fs::DirBuilder::new();
        folder.mode(0o700).recursive(true);
        folder.create(dir.join("exec")).map_err(write)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(PRIVATE);
        let mut file = options.open(&self.files.process).map_err(write)?;
        file.write_all(&process).map_err(write)?;
        let console = self
            .order
            .terminal
            .as_ref()
            .map(|terminal| Path::new(&terminal.socket));
        let exec = process::Exec {
            id: &self.container,
            process: &self.files.process,
            pid_file: &self.files.pid,
            log: &self.files.log,
            console,
        };
        let mut command = runtime.exec(&exec).map_err(|fault| fault.to_string())?;
        // Some runtimes give a process no group of its own.
        command.current_dir(dir).process_group(0);
        connect(&mut command, streams);
        let spawned = score::of_containers(|| command.spawn());
        // Closes the process' streams here.
        drop(command);
        let child = spawned.and_then(|spawned| spawned);
        let child = child.map_err(|fault| format!("cannot run the runtime: {fault}"))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(|_| "it has no number".to_owned())?);
        let end = PidFd::open(pid).map_err(|fault| format!("cannot watch process {pid}: {fault}"))?;
        self.stage = Stage::Starting {
            starter: Process { pid, end },
            until: BootTime::now().plus(PATIENCE),
        };
        Ok(())
    }

    /// Of one that nobody listens to.
    fn hang_up(&mut self) {
        match &self.stage {
            Stage::Waiting(_) => self.stage = Stage::Over,
            Stage::Running(process) => {
                kill(process.pid, Signal::SIGHUP);
                self.kill_at = Some(BootTime::now().plus(GRACE));
            }
            // Once it runs; its number is not known yet.
            Stage::Starting { .. } | Stage::Over => {}
        }
    }

    fn tick(&mut self) {
        match &self.stage {
            Stage::Starting { starter, until } if until.has_passed() => {
                if let Err(fault) = starter.end.signal(Signal::SIGKILL) {
                    say(format_args!("cannot end a start that hangs: {fault}"));
                }
            }
            Stage::Running(process) => {
                if self.kill_at.take_if(|at| at.has_passed()).is_some() {
                    kill(process.pid, Signal::SIGKILL);
                }
            }
            Stage::Waiting(_) | Stage::Starting { .. } | Stage::Over => {}
        }
    }

    fn next(&self) -> Option<BootTime> {
        match &self.stage {
            Stage::Starting { until, .. } => Some(*until),
            Stage::Running(_) => self.kill_at,
            Stage::Waiting(_) | Stage::Over => None,
        }
    }
}

/// What has a terminal gets its streams from there.
fn connect(command: &mut Command, streams: Vec<OwnedFd>) {
    let mut streams = streams.into_iter();
    let mut next = || streams.next().map_or_else(Stdio::null, Stdio::from);
    command.stdin(next()).stdout(next()).stderr(next());
}

/// All of its group, which it has founded, or which its runtime's program has; never ours.
fn kill(pid: Pid, signal: Signal) {
    let killed = match getpgid(Some(pid)) {
        Ok(group) if group != getpgrp() => killpg(group, signal),
        Ok(_) | Err(_) => signal::kill(pid, signal),
    };
    match killed {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(fault) => say(format_args!("cannot signal process {pid}: {fault}")),
    }
}

fn read_pid(path: &Path) -> Result<Pid, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|fault| format!("cannot read {}: {fault}", path.display()))?;
    let number = text.trim().parse();
    number
        .map(Pid::from_raw)
        .map_err(|_| format!("{} is no number of a process: {text:?}", path.display()))
}

fn failed(why: &str) -> MonitorGuestEnded {
    let message = if why.is_empty() {
        "the runtime does not say why".to_owned()
    } else {
        why.to_owned()
    };
    MonitorGuestEnded {
        code: exec::code(why),
        message,
        lost_bytes: 0,
    }
}

fn exited(by: Ended) -> MonitorGuestEnded {
    let code = match by {
        Ended::Code(code) => code,
        Ended::Signal(signal) => 128 + signal,
    };
    MonitorGuestEnded {
        code,
        ..Default::default()
    }
}

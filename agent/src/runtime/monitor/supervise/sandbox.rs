//! The loop of a monitor: waits for what happens to the containers, to the time, and from agents; asks `course`
//! what follows, and does it. Writes down and tells every change.

use super::agents::Agents;
use super::attachment::Attachment;
use super::container::{Container, Process, Stage, hand_over};
use super::course::{Act, Course, End, Exit};
use super::execs::Execs;
use super::{MAX_GUESTS, SuperviseError, say, score};
use crate::clock::{self, BootTime};
use crate::runtime::cgroup::Cgroups;
use crate::runtime::logs::Writer;
use crate::runtime::monitor::files;
use crate::runtime::process::{self, Output, Runtime, RuntimeError};
use crate::runtime::sys::pidfd::PidFd;
use crate::runtime::sys::wait::{Ended, next_ended_child};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;
use proto::wire::monitor_command::Command;
use proto::wire::{MonitorCommand, MonitorGuestEnded, MonitorPhase, MonitorSpec, MonitorState, Reason};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) struct Sandbox {
    dir: PathBuf,
    spec: MonitorSpec,
    state: MonitorState,
    is_changed: bool,
    course: Course,
    cgroups: Cgroups,
    runtime: Box<dyn Runtime>,
    agents: Agents,
    containers: Vec<Container>,
    execs: Execs,
    timer: TimerFd,
    buffer: Vec<u8>,
}

/// What a ready file descriptor means.
#[derive(Clone, Copy)]
enum Ready {
    Timer,
    Agents,
    Output { container: usize, number: usize },
    Process,
    OutOfMemory { container: usize },
}

impl Sandbox {
    pub(super) fn new(
        dir: &Path,
        spec: MonitorSpec,
        state: MonitorState,
        cgroups: Cgroups,
        runtime: Box<dyn Runtime>,
        agents: Agents,
    ) -> Result<Self, SuperviseError> {
        // Time asleep counts for a time to live.
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer =
            TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).map_err(|source| SuperviseError::System {
                act: "make a timer",
                source: source.into(),
            })?;
        let grace = Duration::from_millis(spec.grace_ms);
        Ok(Self {
            dir: dir.to_owned(),
            course: Course::new(grace, moment(spec.expires_at_boot_ms)),
            spec,
            state,
            is_changed: false,
            cgroups,
            runtime,
            agents,
            containers: Vec::new(),
            execs: Execs::new(dir),
            timer,
            buffer: Vec::new(),
        })
    }

    /// Creates all containers, and starts them once all are created.
    pub(super) fn start(&mut self) {
        let created = score::of_containers(|| {
            let count = self.spec.containers.len();
            (0..count).try_for_each(|i| self.create(i))
        });
        let created = created.unwrap_or_else(|fault| Err((Reason::AgentError, fault.to_string())));
        // By now others may run the sandbox: a runtime can have taken long.
        let act = self.course.tick(BootTime::now());
        self.perform(act);
        if self.course.end().is_some() {
            return;
        }
        let started = created.and_then(|()| (0..self.containers.len()).try_for_each(|i| self.start_one(i)));
        if let Err((reason, message)) = started {
            say(&message);
            let act = self.course.not_started(reason, message, BootTime::now());
            self.perform(act);
        }
        self.is_changed = true;
    }

    /// Until all containers have ended.
    pub(super) fn watch(&mut self) -> Result<(), SuperviseError> {
        loop {
            self.reap()?;
            self.look_after_guests();
            let act = self.course.tick(BootTime::now());
            self.perform(act);
            self.publish();
            if !self
                .containers
                .iter()
                .any(|container| container.process().is_some())
            {
                return Ok(());
            }
            for ready in self.wait()? {
                self.handle(ready);
            }
        }
    }

    /// Makes the runtime forget the containers, and says so.
    pub(super) fn end(&mut self) {
        for container in &self.spec.containers {
            if let Err(fault) = self.runtime.delete(&container.name) {
                say(&fault);
            }
        }
        if let Err(fault) = self.runtime.close() {
            eprintln!("{fault}");
        }
        // Its folder is empty by now, unless it has failed.
        if let Err(fault) = std::fs::remove_dir(files::runtime(&self.dir)) {
            say(format_args!("cannot remove the runtime's folder: {fault}"));
        }
        self.state.phase = MonitorPhase::Ended.into();
        self.state.ended_at_ms = clock::wall().0;
        self.is_changed = true;
        self.publish();
    }

    fn create(&mut self, index: usize) -> Result<(), (Reason, String)> {
        let spec = &self.spec.containers[index];
        let logs = Writer::open(Path::new(&spec.logs)).map_err(|e| own_fault(&spec.name, &e.to_string()))?;
        let (container, pipes) =
            Container::new(self.state.containers[index].clone(), logs, self.spec.root_id)
                .map_err(|e| own_fault(&spec.name, &format!("cannot make its pipes: {e}")))?;
        self.containers.push(container);
        let wanted = process::Container {
            id: &spec.name,
            bundle: Path::new(&spec.bundle),
        };
        let output = Output {
            stdout: pipes.stdout,
            stderr: pipes.stderr,
        };
        let process = self.runtime.create(wanted, output).map_err(refusal)?;
        self.stand_for(index, process)?;
        let container = &mut self.containers[index];
        let spec = &self.spec.containers[index];
        let oom = self.cgroups.watch_oom(Path::new(&spec.cgroup));
        container.oom = Some(oom.map_err(|e| own_fault(&spec.name, &e.to_string()))?);
        Ok(())
    }

    /// Its program runs under the limit from its first instruction.
    fn start_one(&mut self, index: usize) -> Result<(), (Reason, String)> {
        let spec = &self.spec.containers[index];
        if spec.cpu_quota_us > 0 {
            let (quota, period) = (spec.cpu_quota_us, spec.cpu_period_us);
            let limited = self.cgroups.limit_cpu(Path::new(&spec.cgroup), quota, period);
            limited.map_err(|e| (Reason::AgentError, format!("container {}: {e}", spec.name)))?;
        }
        let process = self
            .runtime
            .start(&self.spec.containers[index].name)
            .map_err(refusal)?;
        self.stand_for(index, process)?;
        self.containers[index].started();
        Ok(())
    }

    /// The process, if there is one, is the container's.
    fn stand_for(&mut self, index: usize, pid: Option<Pid>) -> Result<(), (Reason, String)> {
        let Some(pid) = pid else { return Ok(()) };
        let name = &self.spec.containers[index].name;
        // A child that nobody waits for keeps its number.
        let end =
            PidFd::open(pid).map_err(|e| own_fault(name, &format!("cannot watch process {pid}: {e}")))?;
        self.containers[index].stage = Stage::Created(Process { pid, end });
        Ok(())
    }

    /// Waits for the children that have ended; those that are no container's were left behind by one.
    fn reap(&mut self) -> Result<(), SuperviseError> {
        let next = || {
            next_ended_child().map_err(|source| SuperviseError::System {
                act: "wait for a child",
                source: source.into(),
            })
        };
        while let Some((pid, ended)) = next()? {
            let is_its = |c: &Container| c.process().is_some_and(|process| process.pid == pid);
            match self.containers.iter().position(is_its) {
                Some(index) => self.exited(index, ended),
                None => self.execs.reaped(pid, ended),
            }
        }
        Ok(())
    }

    /// Ends those whose agents have left, starts those that wait, and tells of the ends of others.
    fn look_after_guests(&mut self) {
        for connection in self.agents.take_left() {
            self.execs.hang_up(connection);
            for container in &mut self.containers {
                container
                    .attached
                    .retain(|attached| attached.connection != connection);
            }
        }
        self.execs.advance(&mut *self.runtime);
        for (connection, how) in self.execs.take_ended() {
            self.agents.ended(connection, how);
        }
    }

    fn exited(&mut self, index: usize, by: Ended) {
        let container = &mut self.containers[index];
        let was_started = matches!(container.stage, Stage::Started(_));
        let by = self.runtime.ended(&self.spec.containers[index].name, by);
        let oom_killed = container.oom_killed();
        let exit = Exit { by, oom_killed };
        container.ended(exit, &mut self.buffer);
        for attached in std::mem::take(&mut container.attached) {
            let how = MonitorGuestEnded {
                code: exit.code(),
                lost_bytes: attached.lost_bytes,
                ..Default::default()
            };
            self.agents.ended(attached.connection, how);
        }
        if !was_started {
            // It was never the container's program that ran: why is known already.
            container.status.exit_code = None;
        }
        let is_last = !self.containers.iter().any(|c| c.process().is_some());
        let name = if oom_killed {
            self.sharing_limit(index)
        } else {
            self.spec.containers[index].name.clone()
        };
        let act = self.course.exited(&name, exit, is_last, BootTime::now());
        self.perform(act);
        self.is_changed = true;
    }

    /// The container, or all that it can have been: who are in one instance of a kernel have one limit.
    fn sharing_limit(&self, index: usize) -> String {
        let containers = &self.spec.containers;
        let sharing = containers.iter().filter(|c| c.cgroup == containers[index].cgroup);
        sharing.map(|c| c.name.as_str()).collect::<Vec<_>>().join(" or ")
    }

    /// Does it to all containers that have not ended.
    fn perform(&mut self, act: Option<Act>) {
        let Some(act) = act else { return };
        self.is_changed = true;
        for (container, spec) in self.containers.iter().zip(&self.spec.containers) {
            let signal = match (&container.stage, act) {
                (Stage::Waiting | Stage::Over, _) => continue,
                // There is no program yet that could end by itself.
                (Stage::Created(_), _) | (Stage::Started(_), Act::Kill) => Signal::SIGKILL,
                (Stage::Started(_), Act::Terminate) => Signal::SIGTERM,
            };
            if let Err(fault) = self.runtime.kill(&spec.name, signal) {
                say(&fault);
            }
        }
    }

    fn publish(&mut self) {
        if self.is_changed {
            self.is_changed = false;
            self.describe();
            if let Err(fault) = files::write_state(&self.dir, &self.state) {
                say(&fault);
            }
            self.agents.outdate();
        }
        self.agents.tell(&self.state);
    }

    fn describe(&mut self) {
        let state = &mut self.state;
        state.sequence += 1;
        for (known, container) in state.containers.iter_mut().zip(&self.containers) {
            known.clone_from(&container.status);
        }
        state.lost_log_lines = self.containers.iter().map(Container::lost_lines).sum();
        state.expires_at_boot_ms = self.course.expires_at().map_or(0, |at| at.0);
        if state.phase() == MonitorPhase::Starting {
            state.phase = MonitorPhase::Running.into();
        }
        if let Some(end) = self.course.end() {
            if state.phase() == MonitorPhase::Running {
                state.phase = MonitorPhase::Stopping.into();
            }
            state.outcome = end.outcome().into();
            if let End::Failed { reason, message } = end {
                state.reason = (*reason).into();
                state.message.clone_from(message);
            }
        }
    }

    /// Sleeps until something happens.
    fn wait(&mut self) -> Result<Vec<Ready>, SuperviseError> {
        let failed = |act| {
            move |source: Errno| SuperviseError::System {
                act,
                source: source.into(),
            }
        };
        let quiet: Vec<Option<BootTime>> = self.containers.iter().map(Container::quiet_until).collect();
        self.set_timer(&quiet).map_err(failed("set a timer"))?;
        let mut meanings = vec![Ready::Timer];
        let mut polled = vec![PollFd::new(self.timer.as_fd(), PollFlags::POLLIN)];
        for (fd, reads, writes) in self.agents.interests() {
            let mut interest = PollFlags::empty();
            interest.set(PollFlags::POLLIN, reads);
            interest.set(PollFlags::POLLOUT, writes);
            meanings.push(Ready::Agents);
            polled.push(PollFd::new(fd, interest));
        }
        for (index, container) in self.containers.iter().enumerate() {
            let readable = quiet[index].is_none();
            for (number, fd) in container.outputs().filter(|_| readable) {
                meanings.push(Ready::Output {
                    container: index,
                    number,
                });
                polled.push(PollFd::new(fd, PollFlags::POLLIN));
            }
            if let Some(process) = container.process() {
                meanings.push(Ready::Process);
                polled.push(PollFd::new(process.end.as_fd(), PollFlags::POLLIN));
            }
            if let Some(oom) = &container.oom {
                meanings.push(Ready::OutOfMemory { container: index });
                polled.push(PollFd::new(oom.as_fd(), oom.interest()));
            }
        }
        for end in self.execs.ends() {
            meanings.push(Ready::Process);
            polled.push(PollFd::new(end, PollFlags::POLLIN));
        }
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(fault) => return Err(failed("wait for events")(fault)),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let ready = meanings.into_iter().zip(&polled).filter(|(_, fd)| is_ready(fd));
        Ok(ready.map(|(meaning, _)| meaning).collect())
    }

    /// `quiet`: when containers are listened to again.
    fn set_timer(&self, quiet: &[Option<BootTime>]) -> nix::Result<()> {
        match self
            .course
            .next()
            .into_iter()
            .chain(quiet.iter().copied().flatten())
            .chain(self.execs.next())
            .min()
        {
            // A moment of zero would mean never.
            Some(at) => {
                let at = TimeSpec::from_duration(Duration::from_millis(at.0.max(1)));
                self.timer
                    .set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            }
            None => self.timer.unset(),
        }
    }

    fn handle(&mut self, ready: Ready) {
        match ready {
            // Looked at in each round.
            Ready::Timer | Ready::Process => {}
            Ready::Agents => self.attend(),
            Ready::Output { container, number } => {
                let container = &mut self.containers[container];
                let lost = container.lost_lines();
                container.read(number, &mut self.buffer);
                self.is_changed |= container.lost_lines() > lost;
            }
            Ready::OutOfMemory { container } => {
                let container = &mut self.containers[container];
                let oom_killed = container.oom_killed();
                self.is_changed |=
                    oom_killed != std::mem::replace(&mut container.status.oom_killed, oom_killed);
            }
        }
    }

    fn attend(&mut self) {
        self.agents.accept();
        let mut commands = Vec::new();
        let (containers, runtime, course) = (&mut self.containers, &mut self.runtime, &mut self.course);
        let execs = &mut self.execs;
        let (names, root) = (&self.spec.containers, self.spec.root_id);
        let running = |containers: &[Container], name: &str| {
            let index = names.iter().position(|spec| spec.name == name);
            let index = index.ok_or_else(|| format!("there is no container {name}"))?;
            match containers.get(index).map(|container| &container.stage) {
                Some(Stage::Started(_)) => Ok(index),
                Some(Stage::Waiting | Stage::Created(_)) | None => {
                    Err(format!("container {name} does not run yet"))
                }
                Some(Stage::Over) => Err(format!("container {name} has ended")),
            }
        };
        let guests = |execs: &Execs, containers: &[Container]| {
            let attached: usize = containers.iter().map(|container| container.attached.len()).sum();
            if execs.count() + attached < MAX_GUESTS {
                return Ok(());
            }
            Err(format!(
                "{MAX_GUESTS} commands and attachments are in this sandbox already"
            ))
        };
        self.agents.listen(
            |connection, command: MonitorCommand, streams| match command.command {
                Some(Command::Exec(exec)) => {
                    guests(execs, containers)?;
                    let index = running(containers, &exec.container)?;
                    for stream in &streams {
                        hand_over(stream.as_fd(), root)
                            .map_err(|fault| format!("cannot give the container its streams: {fault}"))?;
                    }
                    execs.take(connection, exec, Path::new(&names[index].bundle), streams)
                }
                Some(Command::Attach(attach)) => {
                    guests(execs, containers)?;
                    let index = running(containers, &attach.container)?;
                    containers[index]
                        .attached
                        .push(Attachment::new(connection, streams)?);
                    Ok(())
                }
                Some(Command::ExecSignal(signal)) => execs.signal(connection, signal.number),
                Some(Command::Stop(stop)) => {
                    commands.push(course.stop(Duration::from_millis(stop.grace_ms), BootTime::now()));
                    Ok(())
                }
                Some(Command::Expiry(expiry)) => {
                    course.expire_at(moment(expiry.at_boot_ms));
                    commands.push(None);
                    Ok(())
                }
                Some(Command::Signal(signal)) => {
                    let number =
                        Signal::try_from(signal.number).map_err(|_| "there is no such signal".to_owned())?;
                    let named = |name: &str| signal.container.is_empty() || name == signal.container;
                    let chosen = containers.iter().zip(names).filter(|(_, spec)| named(&spec.name));
                    let running =
                        chosen.filter(|(container, _)| matches!(container.stage, Stage::Started(_)));
                    let mut signalled = 0;
                    for (_, spec) in running {
                        runtime.kill(&spec.name, number).map_err(|e| e.to_string())?;
                        signalled += 1;
                    }
                    match signalled {
                        0 => Err("no such container runs".to_owned()),
                        _ => Ok(()),
                    }
                }
                None => Err("this monitor does not know the command".to_owned()),
            },
        );
        for act in commands {
            self.perform(act);
            self.is_changed = true;
        }
    }
}

fn own_fault(container: &str, what: &str) -> (Reason, String) {
    (Reason::AgentError, format!("container {container}: {what}"))
}

/// The fault of what the container asks for, or of this node.
fn refusal(fault: RuntimeError) -> (Reason, String) {
    let reason = if fault.is_of_container() {
        Reason::StartFailed
    } else {
        Reason::AgentError
    };
    (reason, fault.to_string())
}

/// 0 is never.
fn moment(boot_ms: u64) -> Option<BootTime> {
    (boot_ms > 0).then_some(BootTime(boot_ms))
}

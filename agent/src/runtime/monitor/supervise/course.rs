//! The rules by which a sandbox ends. Pure: what has happened goes in, what shall be done comes out.
//!
//! Any non-zero exit ends it as failed, the last zero exit as succeeded; a command and the end of its time to
//! live end it as well. What decides first counts. Those that are left get SIGTERM, and after the grace SIGKILL.

use crate::clock::BootTime;
use crate::runtime::sys::wait::Ended;
use nix::sys::signal::Signal;
use proto::wire::{MonitorOutcome, Reason};
use std::time::Duration;

/// What shall be done to all containers that have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Terminate,
    Kill,
}

/// How a container's first process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) by: Ended,
    /// The kernel has killed one of the container's processes for want of memory.
    pub(super) oom_killed: bool,
}

impl Exit {
    /// 128 + n where signal n ended it.
    pub(super) fn code(&self) -> i32 {
        match self.by {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
        }
    }
}

/// Why it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Succeeded,
    Failed { reason: Reason, message: String },
    Stopped,
    Expired,
}

impl End {
    pub(super) fn outcome(&self) -> MonitorOutcome {
        match self {
            Self::Succeeded => MonitorOutcome::Succeeded,
            Self::Failed { .. } => MonitorOutcome::Failed,
            Self::Stopped => MonitorOutcome::Stopped,
            Self::Expired => MonitorOutcome::Expired,
        }
    }
}

/// Where a sandbox is on its way.
#[derive(Debug)]
pub(super) struct Course {
    grace: Duration,
    expires_at: Option<BootTime>,
    end: Option<End>,
    /// Set with the end, and taken when it has come.
    kill_at: Option<BootTime>,
}

impl Course {
    pub(super) fn new(grace: Duration, expires_at: Option<BootTime>) -> Self {
        Self {
            grace,
            expires_at,
            end: None,
            kill_at: None,
        }
    }

    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    pub(super) fn expires_at(&self) -> Option<BootTime> {
        self.expires_at
    }

    pub(super) fn expire_at(&mut self, moment: Option<BootTime>) {
        self.expires_at = moment;
    }

    /// When to [`Self::tick`] next.
    pub(super) fn next(&self) -> Option<BootTime> {
        match self.end {
            None => self.expires_at,
            Some(_) => self.kill_at,
        }
    }

    pub(super) fn tick(&mut self, now: BootTime) -> Option<Act> {
        if self.end.is_none() && self.expires_at.is_some_and(|at| at <= now) {
            return self.finish(End::Expired, self.grace, now);
        }
        self.kill_at.take_if(|at| *at <= now).map(|_| Act::Kill)
    }

    /// A container has ended; `is_last`: none is left.
    pub(super) fn exited(&mut self, name: &str, exit: Exit, is_last: bool, now: BootTime) -> Option<Act> {
        let end = match exit.by {
            Ended::Code(0) if is_last => End::Succeeded,
            Ended::Code(0) => return None,
            Ended::Code(_) | Ended::Signal(_) => failure(name, exit),
        };
        self.finish(end, self.grace, now)
    }

    /// A container could not be created or started.
    pub(super) fn not_started(&mut self, reason: Reason, message: String, now: BootTime) -> Option<Act> {
        self.finish(End::Failed { reason, message }, self.grace, now)
    }

    pub(super) fn stop(&mut self, grace: Duration, now: BootTime) -> Option<Act> {
        self.finish(End::Stopped, grace, now)
    }

    /// The first end counts, and the shortest grace.
    fn finish(&mut self, end: End, grace: Duration, now: BootTime) -> Option<Act> {
        let kill_at = now.plus(grace);
        let is_first = self.end.is_none();
        if is_first {
            self.end = Some(end);
            self.kill_at = Some(kill_at);
        } else {
            self.kill_at = self.kill_at.map(|at| at.min(kill_at));
        }
        if grace.is_zero() {
            return self.kill_at.take().map(|_| Act::Kill);
        }
        is_first.then_some(Act::Terminate)
    }
}

fn failure(name: &str, exit: Exit) -> End {
    let how = match exit.by {
        Ended::Code(code) => format!("exited with code {code}"),
        Ended::Signal(number) => match Signal::try_from(number) {
            Ok(signal) => format!("was ended by {signal}"),
            Err(_) => format!("was ended by signal {number}"),
        },
    };
    if exit.oom_killed {
        return End::Failed {
            reason: Reason::OomKilled,
            message: format!("container {name} {how} after it had reached its memory limit"),
        };
    }
    End::Failed {
        reason: Reason::ContainerExited,
        message: format!("container {name} {how}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(100);
    const CODE_0: Ended = Ended::Code(0);
    const CODE_3: Ended = Ended::Code(3);
    const KILLED: Ended = Ended::Signal(libc::SIGKILL);

    /// What happens at a moment.
    enum Event {
        Exit(Ended, bool),
        LastExit(Ended),
        Oom,
        Stop(u64),
        Tick,
    }
    use Event::{Exit as Exited, LastExit, Oom, Stop, Tick};

    /// Each event with what is to be done; then how it has ended.
    #[track_caller]
    fn check(
        expires_at: Option<u64>,
        events: &[(u64, Event, Option<Act>)],
        want: Option<MonitorOutcome>,
    ) -> Course {
        let mut course = Course::new(GRACE, expires_at.map(BootTime));
        for (at, event, want) in events {
            let now = BootTime(*at);
            let exit = |by, oom_killed| Exit { by, oom_killed };
            let act = match event {
                Exited(by, oom) => course.exited("c", exit(*by, *oom), false, now),
                LastExit(by) => course.exited("c", exit(*by, false), true, now),
                Oom => course.exited("c", exit(KILLED, true), false, now),
                Stop(grace) => course.stop(Duration::from_millis(*grace), now),
                Tick => course.tick(now),
            };
            assert_eq!(act, *want, "at {at}");
        }
        assert_eq!(course.end().map(End::outcome), want);
        course
    }

    #[track_caller]
    fn check_failure(event: Event, reason: Reason, message: &str) {
        let course = check(
            None,
            &[(1, event, Some(Act::Terminate))],
            Some(MonitorOutcome::Failed),
        );
        let want = End::Failed {
            reason,
            message: message.to_owned(),
        };
        assert_eq!(course.end(), Some(&want));
    }

    #[test]
    fn exits_decide_how_a_sandbox_ends() {
        check(None, &[(1, Exited(CODE_0, false), None)], None);
        check(
            None,
            &[
                (1, Exited(CODE_0, false), None),
                (2, LastExit(CODE_0), Some(Act::Terminate)),
            ],
            Some(MonitorOutcome::Succeeded),
        );
        check_failure(
            Exited(CODE_3, false),
            Reason::ContainerExited,
            "container c exited with code 3",
        );
        check_failure(
            LastExit(KILLED),
            Reason::ContainerExited,
            "container c was ended by SIGKILL",
        );
        check_failure(
            Exited(Ended::Signal(34), false),
            Reason::ContainerExited,
            "container c was ended by signal 34",
        );
        check_failure(
            Oom,
            Reason::OomKilled,
            "container c was ended by SIGKILL after it had reached its memory limit",
        );
        check_failure(
            Exited(CODE_3, true),
            Reason::OomKilled,
            "container c exited with code 3 after it had reached its memory limit",
        );
    }

    #[test]
    fn first_end_counts_and_grace_is_given_once() {
        check(
            None,
            &[
                (10, Exited(CODE_3, false), Some(Act::Terminate)),
                (109, Tick, None),
                (110, Tick, Some(Act::Kill)),
                (111, Tick, None),
                (120, LastExit(KILLED), None),
            ],
            Some(MonitorOutcome::Failed),
        );
        check(
            None,
            &[(10, Stop(50), Some(Act::Terminate)), (20, LastExit(CODE_3), None)],
            Some(MonitorOutcome::Stopped),
        );
    }

    #[test]
    fn stop_may_be_repeated_with_less_grace_and_not_with_more() {
        check(
            None,
            &[
                (10, Stop(500), Some(Act::Terminate)),
                (20, Stop(30), None),
                (30, Stop(900), None),
                (49, Tick, None),
                (50, Tick, Some(Act::Kill)),
            ],
            Some(MonitorOutcome::Stopped),
        );
        check(
            None,
            &[
                (10, Stop(500), Some(Act::Terminate)),
                (20, Stop(0), Some(Act::Kill)),
                (600, Tick, None),
            ],
            Some(MonitorOutcome::Stopped),
        );
        check(
            None,
            &[(10, Stop(0), Some(Act::Kill))],
            Some(MonitorOutcome::Stopped),
        );
    }

    #[test]
    fn time_to_live_ends_a_sandbox_that_has_not_ended() {
        check(
            Some(50),
            &[
                (49, Tick, None),
                (50, Tick, Some(Act::Terminate)),
                (150, Tick, Some(Act::Kill)),
            ],
            Some(MonitorOutcome::Expired),
        );
        check(
            Some(50),
            &[
                (40, Exited(CODE_3, false), Some(Act::Terminate)),
                (50, Tick, None),
            ],
            Some(MonitorOutcome::Failed),
        );
        let mut course = check(Some(50), &[(1, Tick, None)], None);
        assert_eq!(course.next(), Some(BootTime(50)));
        course.expire_at(None);
        assert_eq!((course.next(), course.tick(BootTime(60))), (None, None));
    }
}

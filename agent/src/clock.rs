//! The clocks of a node. Lifetimes and leases are counted by [`BootTime`], which nobody can set and which goes
//! on while the machine is suspended: a laptop or a frozen guest that wakes up finds its lease over, as it is.
//! The wall clock only labels what is shown. Called by `ledger`, `lease`, `session` and the sandboxes' tasks.

use crate::runtime::sys::readable::readable;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;
use proto::units::Timestamp;
use spans::Moment;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Names the present boot: [`BootTime`]s of different boots can't be compared.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How often the time is looked at where no timer can be had, for want of file descriptors.
const FALLBACK_PERIOD: Duration = Duration::from_secs(1);

/// Milliseconds since the machine was started, time asleep counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub u64);

impl BootTime {
    /// The present moment; 0 on a kernel without the clock, which Linux has had since 2.6.39.
    #[must_use]
    pub fn now() -> Self {
        let since = clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
        Self(millis(since.unwrap_or_default()))
    }

    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// Time from now until this; zero where it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(Self::now().0))
    }

    #[must_use]
    pub fn has_passed(self) -> bool {
        self <= Self::now()
    }
}

/// Returns when `at` has come; at once after a suspension that it fell into. For ever where it is `None`.
pub async fn sleep_until(at: Option<BootTime>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    while !at.has_passed() {
        if let Err(error) = timer(at).await {
            tracing::debug!(%error, "no timer, looking at the clock instead");
            tokio::time::sleep(at.remaining().min(FALLBACK_PERIOD)).await;
        }
    }
}

async fn timer(at: BootTime) -> io::Result<()> {
    let timer = TimerFd::new(
        ClockId::CLOCK_BOOTTIME,
        TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
    )?;
    let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_millis(at.0)));
    timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
    readable(OwnedFd::from(timer)).await
}

/// The identity of the present boot.
///
/// # Errors
/// Where `/proc` does not tell.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// The wall clock, for labels only.
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp(millis(
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    ))
}

/// Both clocks, for spans of what begins now.
#[must_use]
pub fn moment() -> Moment {
    Moment {
        wall: SystemTime::now(),
        instant: Instant::now(),
    }
}

/// Whole milliseconds, at most what fits.
#[must_use]
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleep_ends_when_the_moment_has_come_and_not_before() {
        let at = BootTime::now().plus(Duration::from_millis(30));
        sleep_until(Some(at)).await;
        assert!(at.has_passed());
        sleep_until(Some(BootTime(1))).await;
    }
}

//! The sole place where the control plane reads a clock. Replicated code (`state`, `schedule`) must never
//! call it: its time is the stamp of the log entry. Called by `raft::propose` for that stamp, by `session`
//! for heartbeats and remaining lifetimes, by the leader's `controller`, by `security` for the life of certificates, and for spans.
#![allow(clippy::disallowed_methods)]

use proto::units::Timestamp;
use spans::Moment;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock, in milliseconds since the Unix epoch. May jump either way; a clock set before 1970 reads 0.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The same for certificates, which have times of their own form.
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Both clocks, for spans of what begins now.
#[must_use]
pub fn moment() -> Moment {
    Moment {
        wall: wall(),
        instant: instant(),
    }
}

/// The monotonic clock, for durations on this replica.
#[must_use]
pub fn instant() -> Instant {
    Instant::now()
}

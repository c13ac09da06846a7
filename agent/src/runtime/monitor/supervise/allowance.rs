//! How much a container may log. Pure: what was kept goes in, and when more may be read comes out.
//!
//! Whatever a container writes costs its monitor work and its node disk traffic, neither of which its own limits
//! bound: a line of one byte becomes a record of some fifty. Past its allowance its pipes are not read, so that
//! its writes wait, and nothing is lost.

use crate::clock::BootTime;
use std::time::Duration;

/// Bytes of records that may come at once: more than all files of a container hold.
const BURST: u64 = 32 << 20;
/// Bytes of records per second in the long run: some percent of a core and of a plain disk, more than anybody
/// reads, and less than who follows them can be sent.
const PER_SECOND: u64 = 8 << 20;

/// A bucket that empties at a steady rate, and is full at [`BURST`].
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Bytes of records that time has not made up for yet, as of `at`.
    level: u64,
    at: BootTime,
}

impl Allowance {
    /// Counts what was kept by `now`.
    pub(super) fn spend(&mut self, bytes: u64, now: BootTime) {
        self.level = self.level_at(now).saturating_add(bytes);
        self.at = now;
    }

    /// When more may be read; `None`: at once.
    pub(super) fn next(&self, now: BootTime) -> Option<BootTime> {
        let excess = self
            .level_at(now)
            .checked_sub(BURST)
            .filter(|excess| *excess > 0)?;
        Some(now.plus(Duration::from_millis((excess * 1_000).div_ceil(PER_SECOND))))
    }

    fn level_at(&self, now: BootTime) -> u64 {
        let passed = now.0.saturating_sub(self.at.0);
        self.level
            .saturating_sub(passed.saturating_mul(PER_SECOND / 1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each moment with what is kept then, and when more may be read.
    #[track_caller]
    fn check(course: &[(u64, u64, Option<u64>)]) {
        let mut allowance = Allowance::default();
        for (at, bytes, next) in course {
            allowance.spend(*bytes, BootTime(*at));
            assert_eq!(allowance.next(BootTime(*at)), next.map(BootTime), "at {at}");
        }
    }

    #[test]
    fn burst_is_read_at_once_and_more_in_its_time() {
        check(&[(5, BURST, None), (5, 1, Some(6)), (7, 0, None)]);
        check(&[(5, BURST + PER_SECOND, Some(1_005))]);
        check(&[
            (5, BURST, None),
            (1_005, PER_SECOND / 2, None),
            (1_005, PER_SECOND, Some(1_506)),
        ]);
    }

    #[test]
    fn flood_gets_the_rate_in_the_long_run() {
        let mut allowance = Allowance::default();
        let (mut now, mut kept) = (BootTime(1), 0);
        while now < BootTime(100_000) {
            allowance.spend(64 << 10, now);
            kept += 64 << 10;
            now = allowance.next(now).unwrap_or(now);
        }
        let rate = (kept - BURST) / 100;
        assert!(rate.abs_diff(PER_SECOND) < PER_SECOND / 50, "{rate}");
    }
}

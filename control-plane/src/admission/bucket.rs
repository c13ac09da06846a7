//! How much may be taken by now at a rate, with a burst: a bucket that fills evenly. Knows no clock: who asks says what
//! time it is.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Bucket {
    /// Between two of them, at the rate.
    interval: Duration,
    /// How far the bucket may be ahead of the time: the burst, as a time.
    depth: Duration,
    /// When the bucket was, or will be, as full as it can be. In the generic cell rate algorithm: the theoretical arrival
    /// time.
    full_at: Instant,
}

impl Bucket {
    /// Full. `rate` is per second; both are at least 1.
    pub(super) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self {
            interval,
            depth: interval * burst.max(1),
            full_at: now,
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// When there will be one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let after = self.full_at.max(now) + self.interval;
        let earliest = after.checked_sub(self.depth).unwrap_or(now);
        if earliest > now {
            return Err(earliest);
        }
        self.full_at = after;
        Ok(())
    }

    /// How long it takes until `count` more have come.
    pub(super) fn time_for(&self, count: usize) -> Duration {
        self.interval * u32::try_from(count).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(bucket: &mut Bucket, now: Instant) -> usize {
        std::iter::from_fn(|| bucket.take(now).ok()).count()
    }

    #[test]
    fn burst_is_taken_at_once_and_then_the_rate() {
        let start = crate::clock::instant();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::new(1_000, 5_000, start);
        assert_eq!(take_all(&mut bucket, at(0)), 5_000);
        assert_eq!(bucket.take(at(0)), Err(at(1)));
        assert_eq!(take_all(&mut bucket, at(10)), 10);
        // It fills no higher than the burst.
        assert_eq!(take_all(&mut bucket, at(60_000)), 5_000);
        // A time that goes back takes nothing away.
        assert_eq!(take_all(&mut bucket, at(50_000)), 0);
        assert_eq!(bucket.time_for(20), Duration::from_millis(20));
    }
}

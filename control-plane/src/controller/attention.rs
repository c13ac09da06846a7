//! For how long a node was silent, not counting times in which this process could not have heard it: while it was
//! stopped, or its machine suspended. Pure but for [`beat`]. Called by `nodes`.

use crate::clock;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often this process notes that it runs.
const BEAT: Duration = Duration::from_millis(100);
/// A beat that comes later than this was held up by a pause of the process; below it, by a busy machine on which
/// heartbeats still come through.
const LATE: Duration = Duration::from_millis(500);
/// Pauses remembered. Each lasted [`LATE`] at least, and each delays by its own length what follows from silence.
const MAX_PAUSES: usize = 1_024;

/// When this process was there to hear. Begins with a leadership.
#[derive(Debug)]
pub(super) struct Attention {
    began: Instant,
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    last_beat: Instant,
    /// End and length, oldest first.
    pauses: VecDeque<(Instant, Duration)>,
}

impl Attention {
    pub(super) fn new(now: Instant) -> Self {
        let times = Times {
            last_beat: now,
            pauses: VecDeque::new(),
        };
        Self {
            began: now,
            times: Mutex::new(times),
        }
    }

    /// This process runs at `now`.
    fn beat(&self, now: Instant) {
        let mut times = self.times();
        let since = now.saturating_duration_since(times.last_beat);
        if since > LATE {
            tracing::warn!(pause = ?since, "this process did not run for a while; nodes get that time too");
            if times.pauses.len() == MAX_PAUSES {
                times.pauses.pop_front();
            }
            times.pauses.push_back((now, since));
        }
        times.last_beat = now;
    }

    /// Whether the node heard at `seen` was heard under this leadership.
    pub(super) fn has_heard(&self, seen: Option<Instant>) -> bool {
        seen.is_some_and(|seen| seen >= self.began)
    }

    /// How long, of what this process could hear, a node has been silent that was heard at `seen`. What came
    /// before this leadership does not count: others heard the node then.
    pub(super) fn silence(&self, seen: Option<Instant>, now: Instant) -> Duration {
        // A pause may have ended a moment ago, and no beat has told of it yet.
        self.beat(now);
        let since = seen.map_or(self.began, |seen| seen.max(self.began));
        let deaf: Duration = self
            .times()
            .pauses
            .iter()
            .filter(|(end, _)| *end > since)
            .map(|(_, length)| *length)
            .sum();
        now.saturating_duration_since(since).saturating_sub(deaf)
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes that this process runs, without end.
pub(super) async fn beat(attention: &Arc<Attention>) {
    loop {
        tokio::time::sleep(BEAT).await;
        attention.beat(clock::instant());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The process runs from 0 to 100 s but for `pauses` (begin, end); the node was heard at `seen`.
    #[track_caller]
    fn check(pauses: &[(u64, u64)], seen: Option<u64>, now: u64, expected: Duration) {
        let zero = clock::instant();
        let attention = Attention::new(zero + s(10));
        let mut at = s(10);
        while at < s(now) {
            if !pauses
                .iter()
                .any(|(begin, end)| (s(*begin)..s(*end)).contains(&at))
            {
                attention.beat(zero + at);
            }
            at += BEAT;
        }
        let silence = attention.silence(seen.map(|at| zero + s(at)), zero + s(now));
        let slack = LATE + BEAT;
        assert!(
            silence <= expected + slack && silence + slack >= expected,
            "paused {pauses:?}, heard at {seen:?}: {silence:?} at {now} s, not {expected:?}"
        );
    }

    #[test]
    fn silence_counts_from_the_last_word_and_from_the_begin_of_the_leadership() {
        check(&[], Some(20), 25, s(5));
        check(&[], Some(5), 25, s(15));
        check(&[], None, 25, s(15));
    }

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        check(&[(20, 50)], Some(15), 52, s(7));
        check(&[(20, 50)], None, 52, s(12));
        check(&[(20, 50), (52, 80)], Some(15), 81, s(8));
    }

    #[test]
    fn process_that_has_just_woken_does_not_count_its_pause() {
        check(&[(20, 90)], Some(19), 90, s(1));
    }

    #[test]
    fn pause_before_the_last_word_takes_nothing_off() {
        check(&[(20, 50)], Some(60), 70, s(10));
    }
}

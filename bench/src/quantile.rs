//! What is told of many measured times.

use serde::Serialize;
use std::time::Duration;

/// In milliseconds. Of quantiles the measured value at that rank (nearest rank), never one in between.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// `None` of nothing.
    pub(crate) fn of(times: &[Duration]) -> Option<Self> {
        let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect();
        ms.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (ms.len() * percent).div_ceil(100).max(1);
            ms.get(rank - 1).copied()
        };
        Some(Self {
            count: ms.len(),
            min: *ms.first()?,
            p50: at(50)?,
            p95: at(95)?,
            p99: at(99)?,
            max: *ms.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        #[track_caller]
        fn check(ms: &[u64], want: Option<(f64, f64, f64, f64)>) {
            let times: Vec<Duration> = ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
            let found = Summary::of(&times).map(|s| (s.min, s.p50, s.p95, s.max));
            assert_eq!(found, want, "{ms:?}");
        }
        check(&[], None);
        check(&[7], Some((7.0, 7.0, 7.0, 7.0)));
        check(&[3, 1, 2], Some((1.0, 2.0, 3.0, 3.0)));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        check(&hundred, Some((1.0, 50.0, 95.0, 100.0)));
    }
}

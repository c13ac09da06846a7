//! Time spans for people: two units at most, the larger ones alone.

use std::time::Duration;

/// `45s`, `3m20s`, `59m`, `5h10m`, `36h`, `12d`.
#[must_use]
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let with = |whole: u64, unit: &str, rest: u64, rest_unit: &str| {
        if rest == 0 {
            format!("{whole}{unit}")
        } else {
            format!("{whole}{unit}{rest}{rest_unit}")
        }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..7_200 => format!("{minutes}m"),
        7_200..36_000 => with(hours, "h", minutes % 60, "m"),
        36_000..172_800 => format!("{hours}h"),
        172_800.. => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, expected: &str) {
        assert_eq!(span(Duration::from_secs(seconds)), expected);
    }

    #[test]
    fn spans_of_each_size_are_shown_in_fitting_units() {
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(200, "3m20s");
        check(3_599, "59m");
        check(7_200, "2h");
        check(18_600, "5h10m");
        check(36_000, "10h");
        check(172_799, "47h");
        check(172_800, "2d");
        check(86_400 * 400, "400d");
    }
}

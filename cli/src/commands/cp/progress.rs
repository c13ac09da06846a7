//! How far a copy is, for a person who watches: one line on a terminal, nothing anywhere else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Short copies show nothing.
const FIRST: Duration = Duration::from_millis(500);
/// Between two views, so that a terminal is not kept busy.
const EVERY: Duration = Duration::from_millis(200);

pub(super) struct Progress {
    bytes: u64,
    begun: Instant,
    next: Instant,
    is_watched: bool,
    is_shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let begun = Instant::now();
        Self {
            bytes: 0,
            begun,
            next: begun + FIRST,
            is_watched: std::io::stderr().is_terminal(),
            is_shown: false,
        }
    }

    /// So many bytes more.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let now = Instant::now();
        if self.is_watched && now >= self.next {
            self.next = now + EVERY;
            self.is_shown = true;
            let text = text(self.bytes, now - self.begun);
            // That nobody reads it is no failure.
            write!(std::io::stderr(), "\r\x1b[K{text}").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            write!(std::io::stderr(), "\r\x1b[K").ok();
        }
    }
}

fn text(bytes: u64, time: Duration) -> String {
    let per_second = bytes as f64 / time.as_secs_f64().max(0.001);
    format!("{} copied, {}/s", size(bytes as f64), size(per_second))
}

fn size(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value:.0} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_are_for_people() {
        for (bytes, seconds, want) in [
            (0, 1, "0 B copied, 0 B/s"),
            (1536, 2, "1.5 KiB copied, 768 B/s"),
            (3 << 30, 3, "3.0 GiB copied, 1.0 GiB/s"),
            (5 << 40, 1, "5120.0 GiB copied, 5120.0 GiB/s"),
        ] {
            assert_eq!(text(bytes, Duration::from_secs(seconds)), want);
        }
    }
}

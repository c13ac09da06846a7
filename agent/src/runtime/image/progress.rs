//! How far a pull is, for who waits for it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far the pull of one image is. Layers that are on the node already count as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Unpacked.
    pub layers_done: u64,
    /// 0: not yet known.
    pub layers: u64,
    /// Received, compressed as they are sent.
    pub bytes_done: u64,
    pub bytes: u64,
}

impl fmt::Display for Progress {
    /// `2 of 5 layers, 12.3 of 40.1 MiB`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.layers == 0 {
            return f.write_str("asking its registry");
        }
        let tenths = |bytes: u64| (bytes.saturating_mul(10)) >> 20;
        let (done, all) = (tenths(self.bytes_done), tenths(self.bytes));
        write!(
            f,
            "{} of {} layers, {}.{} of {}.{} MiB",
            self.layers_done,
            self.layers,
            done / 10,
            done % 10,
            all / 10,
            all % 10
        )
    }
}

/// Of one layer; written by who fetches it and read by all who wait for it.
#[derive(Debug, Default)]
pub(super) struct Meter {
    received: AtomicU64,
    unpacked: AtomicBool,
}

impl Meter {
    pub(super) fn set(&self, received: u64) {
        self.received.store(received, Ordering::Relaxed);
    }

    pub(super) fn finish(&self) {
        self.unpacked.store(true, Ordering::Relaxed);
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.unpacked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reads_as_a_sentence() {
        let progress = Progress {
            layers_done: 2,
            layers: 5,
            bytes_done: 1_363_149,
            bytes: 40 << 20,
        };
        assert_eq!(progress.to_string(), "2 of 5 layers, 1.3 of 40.0 MiB");
        assert_eq!(Progress::default().to_string(), "asking its registry");
    }
}

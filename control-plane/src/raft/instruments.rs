//! How long consensus and its disk take, for Prometheus. Owns the figures; filled by [`super::propose`] and
//! [`super::group_commit`], read by `metrics`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Clones share.
#[derive(Debug, Clone)]
pub struct Instruments {
    /// From a command's call to its answer.
    pub(super) commit: Histogram,
    pub(super) commands: Family<[(&'static str, &'static str); 1], Counter>,
    /// Commands in one entry.
    pub(super) batch: Histogram,
    /// One sync of the log.
    pub(super) fsync: Histogram,
}

impl Instruments {
    pub(super) fn new(fsync: Histogram) -> Self {
        Self {
            // From a commit on a fast disk to the time after which nobody waits any more.
            commit: Histogram::new(exponential_buckets(0.000_25, 2.0, 15)),
            commands: Family::default(),
            // To the most that one takes.
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            fsync,
        }
    }

    /// How a command ended: `accepted`, `rejected` by the state, or `failed`: refused before, or unknown.
    pub(super) fn count(&self, outcome: &'static str) {
        self.commands.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "raft_commit",
            "Time from a command's proposal to its answer, at the leader",
            Unit::Seconds,
            self.commit.clone(),
        );
        registry.register(
            "raft_commands",
            "Commands proposed here, by outcome",
            self.commands.clone(),
        );
        registry.register("raft_batch_commands", "Commands in one entry", self.batch.clone());
        registry.register_with_unit(
            "storage_fsync",
            "Time that a sync of the log took",
            Unit::Seconds,
            self.fsync.clone(),
        );
    }
}

/// From what memory that pretends to be a disk takes, to a disk that nobody should use: 20 us to 0.6 s.
pub(super) fn fsync_times() -> Histogram {
    Histogram::new(exponential_buckets(0.000_02, 2.0, 16))
}

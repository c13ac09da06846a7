//! How much the scheduler does and how long it takes, for Prometheus. Filled by `placing`, read by `metrics`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Clones share.
#[derive(Debug, Clone)]
pub struct Instruments {
    /// One plan.
    pub(super) plan: Histogram,
    /// Sandboxes that were given a node.
    pub(super) placed: Counter,
    /// From a sandbox's creation to its node, as the log tells it.
    pub(super) wait: Histogram,
}

impl Default for Instruments {
    fn default() -> Self {
        Self {
            plan: Histogram::new(exponential_buckets(0.000_05, 2.0, 15)),
            placed: Counter::default(),
            wait: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
        }
    }
}

impl Instruments {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "scheduler_plan",
            "Time that one plan of placements took",
            Unit::Seconds,
            self.plan.clone(),
        );
        registry.register(
            "scheduler_placements",
            "Sandboxes that were given a node while this replica led",
            self.placed.clone(),
        );
        registry.register_with_unit(
            "scheduler_wait",
            "Time from a sandbox's creation to its node",
            Unit::Seconds,
            self.wait.clone(),
        );
    }
}

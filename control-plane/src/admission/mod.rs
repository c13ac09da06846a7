//! In which turn users' writes are taken, and how many: a cluster that is asked for more than it can do says so at once,
//! does as much as before, and lets nobody wait for another one's flood.
//!
//! | file | owns |
//! |---|---|
//! | `lines` | who waits: one line per client, served in turns (pure) |
//! | `bucket` | how much may be taken by now at a rate, with a burst (pure) |
//! | `rate` | new sandboxes: so many per second and cluster |
//! | `places` | writes on their way: so many at a time |
//!
//! Asked by `api` on the leader, before a write is proposed. The control plane's own commands are not held up here.

mod bucket;
mod lines;
mod places;
mod rate;

pub use places::Place;

use crate::access::{Caller, Who};
use places::Places;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rate::Rate;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a cluster takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// New sandboxes per second; 0: as many as come.
    pub create_rate: u32,
    /// So many of them at once after a quiet time; at least 1.
    pub create_burst: u32,
}

impl Default for Limits {
    /// As the contract has them.
    fn default() -> Self {
        Self {
            create_rate: 1_000,
            create_burst: 5_000,
        }
    }
}

/// Whose turn is meant: all that one token, one machine, or without tokens one address asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Client(String);

impl Client {
    #[must_use]
    pub fn of(caller: &Caller) -> Self {
        Self(match &caller.who {
            Who::Anybody | Who::Nobody => caller.source.to_string(),
            who @ (Who::Token { .. } | Who::Node(_) | Who::Replica(_)) => who.to_string(),
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Too much is asked for. Nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}; ask again in {}", humantime::format_duration(*retry_after))]
pub struct Refused {
    why: &'static str,
    /// When it makes sense to ask again.
    pub retry_after: Duration,
}

/// The way in, of one replica while it leads. Clones share.
#[derive(Debug, Clone)]
pub struct Admission {
    creates: Arc<Rate>,
    writes: Arc<Places>,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Admission {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            creates: Arc::new(Rate::new(limits)),
            writes: Arc::new(Places::default()),
            refused: Family::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        for limit in ["create_rate", "writes"] {
            drop(self.refused.get_or_create_owned(&[("limit", limit)]));
        }
        registry.register(
            "admission_refused",
            "Writes refused at the leader, by the limit that they met",
            self.refused.clone(),
        );
    }

    fn count(&self, limit: &'static str) {
        self.refused.get_or_create(&[("limit", limit)]).inc();
    }

    /// Waits for the client's turn to write, `creating` a sandbox or not; for a second or two at most. The write is under
    /// way until the place is dropped.
    ///
    /// # Errors
    /// [`Refused`]
    pub async fn enter(&self, client: &Client, creating: bool) -> Result<Place, Refused> {
        if creating {
            let passed = self.creates.pass(client).await;
            passed.inspect_err(|_| self.count("create_rate"))?;
        }
        self.writes
            .take(client)
            .await
            .inspect_err(|_| self.count("writes"))
    }
}

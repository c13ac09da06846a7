//! Sandboxes that are asked for all at once, each by a client of its own: how long each waits until it is placed.

use super::fleet::Fleet;
use super::ours::{self, What};
use crate::error::BenchError;
use crate::local::Local;
use crate::quantile::Summary;
use cli::client::{Change, Client};
use proto::wire::{self, Phase, object::Object};
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);
/// Sandboxes of a burst carry it.
const PREFIX: &str = "burst";

/// As a watch tells it, which a client may hear of later than it is so.
#[derive(Debug, Serialize)]
pub(super) struct Burst {
    sandboxes: u64,
    agents: usize,
    pub(super) clients: u64,
    /// From the moment at which the watch shows it pending until it shows it scheduled.
    pub(super) pending_to_scheduled: Summary,
    /// From the first request of all.
    pub(super) all_acknowledged_ms: f64,
    pub(super) all_scheduled_ms: f64,
    pub(super) all_running_ms: f64,
}

#[derive(Debug, Default)]
struct Seen {
    pending: Option<Instant>,
    scheduled: Option<Instant>,
    running: Option<Instant>,
}

/// Asks for `count` by `clients`, which each have as many to ask for.
pub(super) async fn measure(
    local: &Local,
    fleet: &Fleet,
    count: u64,
    clients: u64,
) -> Result<Burst, BenchError> {
    let watching = ours::client(local)?;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let seeing = tokio::spawn(async move { see(&watching, count, ready).await });
    is_ready.await.map_err(|_| BenchError::Unwatched)?;
    let begun = Instant::now();
    ours::write_many(local, PREFIX, What::Placed, 0, count, clients).await?;
    let acknowledged = begun.elapsed();
    let seen = tokio::time::timeout(PATIENCE, seeing).await;
    let seen = seen.map_err(|_| BenchError::Timeout {
        what: format!("{count} sandboxes running"),
        seconds: PATIENCE.as_secs(),
    })?;
    let seen = seen.map_err(|_| BenchError::Unwatched)??;
    let waited: Vec<Duration> = seen
        .values()
        .filter_map(|seen| Some(seen.scheduled? - seen.pending?))
        .collect();
    let last = |pick: fn(&Seen) -> Option<Instant>| {
        let last = seen.values().filter_map(pick).max();
        last.map_or(0.0, |at| {
            at.saturating_duration_since(begun).as_secs_f64() * 1_000.0
        })
    };
    Ok(Burst {
        sandboxes: count,
        agents: fleet.len(),
        clients,
        pending_to_scheduled: Summary::of(&waited).ok_or(BenchError::Nothing("placements"))?,
        all_acknowledged_ms: acknowledged.as_secs_f64() * 1_000.0,
        all_scheduled_ms: last(|seen| seen.scheduled),
        all_running_ms: last(|seen| seen.running),
    })
}

/// Until `count` of them run.
async fn see(
    client: &Client,
    count: u64,
    ready: tokio::sync::oneshot::Sender<()>,
) -> Result<HashMap<String, Seen>, BenchError> {
    let mut ready = Some(ready);
    let mut all: HashMap<String, Seen> = HashMap::new();
    let mut running = 0;
    let mut changes = client.watch(wire::WatchRequest {
        kind: wire::Kind::Sandbox.into(),
        ..Default::default()
    });
    while running < count {
        let object = match changes.next().await? {
            Change::Changed(object) => object,
            Change::Deleted(_) => continue,
            Change::Synced => {
                // Who waits may have given up.
                ready.take().and_then(|ready| ready.send(()).ok());
                continue;
            }
        };
        let now = Instant::now();
        let Some(Object::Sandbox(sandbox)) = object.object.filter(is_of_burst) else {
            continue;
        };
        let seen = all.entry(sandbox.id).or_default();
        match sandbox.status.unwrap_or_default().phase() {
            Phase::Pending => {
                seen.pending.get_or_insert(now);
            }
            Phase::Scheduled => {
                seen.scheduled.get_or_insert(now);
            }
            Phase::Running => {
                seen.scheduled.get_or_insert(now);
                if seen.running.replace(now).is_none() {
                    running += 1;
                }
            }
            phase @ (Phase::Unspecified | Phase::Succeeded | Phase::Failed | Phase::Deleting) => {
                return Err(BenchError::Sandbox {
                    id: PREFIX.to_owned(),
                    why: format!("it is {phase:?}"),
                });
            }
        }
    }
    Ok(all)
}

fn is_of_burst(object: &Object) -> bool {
    matches!(object, Object::Sandbox(sandbox) if sandbox.id.starts_with(PREFIX))
}

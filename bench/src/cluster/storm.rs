//! All agents at once: they lose their leader and come to the next one; they report without pause. What users notice of it,
//! and when every agent is back.

use super::fleet::Fleet;
use super::load::{Beside, Written};
use super::ours::{self, Sandboxes, What};
use crate::error::BenchError;
use crate::local::Local;
use crate::quantile::Summary;
use nix::sys::signal::Signal;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Until every agent is back. Beyond the contract's 10 s they would count as silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two reports of each sandbox of a flood.
const FLOOD_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
pub(super) struct Storm {
    pub(super) agents: usize,
    pub(super) sandboxes: usize,
    /// One client's writes while nothing happens.
    pub(super) quiet: Summary,
    /// Of those while every sandbox has something new to report every 100 ms.
    pub(super) flooded: Summary,
    /// Of the writes that were acknowledged from the leader's death on until all agents were back; the longest one is that
    /// which waited for the next leader.
    pub(super) meanwhile: Option<Summary>,
    /// From the leader's death until an agent's heartbeat is acknowledged by the next one.
    pub(super) back: Option<Summary>,
    pub(super) not_back: usize,
}

/// `time`: how long each of the steps lasts whose end does not follow from itself.
pub(super) async fn measure(local: &Local, fleet: &Fleet, time: Duration) -> Result<Storm, BenchError> {
    ours::whole(local).await?;
    let quiet = Beside::start(writer(local, "quiet")?, 0);
    tokio::time::sleep(time).await;
    let quiet = quiet.end().await?;
    let flood = fleet.flood(FLOOD_EVERY);
    let flooded = Beside::start(writer(local, "flooded")?, 0);
    tokio::time::sleep(time).await;
    let flooded = flooded.end().await?;
    drop(flood);
    ours::whole(local).await?;

    let leader = ours::replicas(local)?.into_iter().find(|replica| replica.leads);
    let leader = leader.ok_or(BenchError::Nothing("leaders"))?;
    let beside = Beside::start(writer(local, "storm")?, 0);
    // It is under way.
    tokio::time::sleep(time / 4).await;
    let begun = Instant::now();
    ours::signal(&leader, Signal::SIGKILL)?;
    let back = fleet.heard_again(PATIENCE).await;
    let writes = beside.end().await?;
    ours::dev(local, &["restart", &leader.name])?;

    let took = |writes: &[Written]| writes.iter().map(|write| write.took).collect::<Vec<_>>();
    let meanwhile = writes.iter().filter(|write| write.asked + write.took > begun);
    let meanwhile: Vec<Duration> = meanwhile.map(|write| write.took).collect();
    let times: Vec<Duration> = back.iter().copied().flatten().collect();
    Ok(Storm {
        agents: fleet.len(),
        sandboxes: fleet.running(),
        quiet: Summary::of(&took(&quiet)).ok_or(BenchError::Nothing("writes"))?,
        flooded: Summary::of(&took(&flooded)).ok_or(BenchError::Nothing("writes"))?,
        meanwhile: Summary::of(&meanwhile),
        back: Summary::of(&times),
        not_back: back.len() - times.len(),
    })
}

fn writer(local: &Local, prefix: &str) -> Result<Sandboxes, BenchError> {
    Ok(Sandboxes::new(ours::client(local)?, prefix, What::Waiting))
}

//! What a cluster costs as it grows: at each size memory and processor time of every replica while nothing happens but
//! heartbeats, a write, a list of everything, and a follower's way back after its process has died; at the last one also
//! that of a follower that was away for so long that it needs a snapshot.

use super::fleet::Fleet;
use super::load;
use super::ours::{self, Replica, Sandboxes, What};
use crate::error::BenchError;
use crate::local::Local;
use crate::process::{KIB_PER_MIB, cpu, sum_kib};
use crate::quantile::Summary;
use nix::sys::signal::Signal;
use proto::wire::{self, Phase};
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};

/// Clients that fill the cluster.
const FILLERS: u64 = 64;
/// Until all that was written runs on the simulated agents.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const BYTES_PER_MIB: f64 = 1_048_576.0;

#[derive(Debug, Serialize)]
pub(super) struct Size {
    pub(super) agents: usize,
    pub(super) sandboxes: u64,
    pub(super) replicas: Vec<Taken>,
    /// Of the leader's processor time while idle, by each heartbeat.
    pub(super) heartbeat_us: f64,
    /// Of one client.
    pub(super) write: Summary,
    pub(super) list_all_ms: f64,
    /// From the start of a follower's process, with all its data, until it has everything.
    pub(super) restart_ms: f64,
    pub(super) snapshot: Option<Snapshot>,
}

#[derive(Debug, Serialize)]
pub(super) struct Taken {
    pub(super) name: String,
    pub(super) leads: bool,
    pub(super) rss_mib: f64,
    /// Of one processor, while nothing happens but heartbeats.
    pub(super) idle_cpu_percent: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    pub(super) mib: f64,
    /// Entries of the log that the follower had missed.
    pub(super) missed_entries: u64,
    /// From the start of its process until it has everything.
    pub(super) catch_up_ms: f64,
}

/// How one size is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) agents: usize,
    pub(super) sandboxes: u64,
    pub(super) heartbeat: Duration,
    /// How long each measurement lasts whose end does not follow from itself.
    pub(super) time: Duration,
    /// Entries that a follower misses so that it needs a snapshot; `None`: that is not measured.
    pub(super) missed_entries: Option<u64>,
}

/// Grows the cluster, which has `there` sandboxes, to the step's size, and measures it.
pub(super) async fn measure(
    local: &Local,
    fleet: &mut Fleet,
    there: u64,
    step: Step,
) -> Result<Size, BenchError> {
    fleet.grow(step.agents).await?;
    ours::write_many(
        local,
        "fill",
        What::Placed,
        there,
        step.sandboxes - there,
        FILLERS,
    )
    .await?;
    all_run(local, fleet, step.sandboxes).await?;
    ours::whole(local).await?;

    let replicas = idle(ours::replicas(local)?, step.time).await?;
    let leader = replicas.iter().find(|replica| replica.leads);
    let beats = step.agents as f64 / step.heartbeat.as_secs_f64();
    let heartbeat_us = leader.map_or(0.0, |leader| leader.idle_cpu_percent * 10_000.0 / beats);
    let writer = Sandboxes::new(
        ours::client(local)?,
        &format!("write-{}", step.sandboxes),
        What::Waiting,
    );
    let write = load::run(vec![writer], step.time).await?.latency;
    let begun = Instant::now();
    let request = wire::ListRequest {
        kind: wire::Kind::Sandbox.into(),
        ..Default::default()
    };
    ours::client(local)?.list(&request).await?;
    let list_all_ms = begun.elapsed().as_secs_f64() * 1_000.0;
    let follower = follower(local)?;
    let restart_ms = away(local, &follower, async || Ok(())).await?;
    let snapshot = match step.missed_entries {
        Some(entries) => Some(snapshot(local, &follower, entries).await?),
        None => None,
    };
    Ok(Size {
        agents: step.agents,
        sandboxes: step.sandboxes,
        replicas,
        heartbeat_us,
        write,
        list_all_ms,
        restart_ms,
        snapshot,
    })
}

async fn all_run(local: &Local, fleet: &Fleet, count: u64) -> Result<(), BenchError> {
    let begun = Instant::now();
    let client = ours::client(local)?;
    while begun.elapsed() < PATIENCE {
        // What agents say is known here; that the cluster has heard it is asked when it can be so.
        if fleet.running() as u64 >= count && ours::count(&client, Phase::Running).await? as u64 >= count {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY * 10).await;
    }
    Err(BenchError::Timeout {
        what: format!("{count} sandboxes running"),
        seconds: PATIENCE.as_secs(),
    })
}

async fn idle(replicas: Vec<Replica>, time: Duration) -> Result<Vec<Taken>, BenchError> {
    let read = |source: io::Error| BenchError::System {
        act: "read what a replica takes",
        source,
    };
    let before: Vec<Duration> = replicas
        .iter()
        .map(|r| cpu(r.pid))
        .collect::<Result<_, _>>()
        .map_err(read)?;
    let begun = Instant::now();
    tokio::time::sleep(time).await;
    let elapsed = begun.elapsed().as_secs_f64();
    let taken = replicas.into_iter().zip(before).map(|(replica, before)| {
        let used = cpu(replica.pid)?.saturating_sub(before);
        Ok(Taken {
            rss_mib: sum_kib(replica.pid, "status", &["VmRSS:"])? / KIB_PER_MIB,
            idle_cpu_percent: 100.0 * used.as_secs_f64() / elapsed,
            name: replica.name,
            leads: replica.leads,
        })
    });
    taken.collect::<Result<_, _>>().map_err(read)
}

fn follower(local: &Local) -> Result<Replica, BenchError> {
    let follower = ours::replicas(local)?.into_iter().find(|replica| !replica.leads);
    follower.ok_or(BenchError::Nothing("followers"))
}

/// Kills a replica, does something meanwhile, starts it again. How long that takes until it has everything.
async fn away(
    local: &Local,
    replica: &Replica,
    meanwhile: impl AsyncFnOnce() -> Result<(), BenchError>,
) -> Result<f64, BenchError> {
    // Its process may be a later one than that which is known.
    let now = ours::replicas(local)?
        .into_iter()
        .find(|r| r.name == replica.name);
    ours::signal(&now.ok_or(BenchError::Nothing("replicas"))?, Signal::SIGKILL)?;
    meanwhile().await?;
    let begun = Instant::now();
    ours::dev(local, &["restart", &replica.name])?;
    ours::whole(local).await?;
    Ok(begun.elapsed().as_secs_f64() * 1_000.0)
}

async fn snapshot(local: &Local, follower: &Replica, entries: u64) -> Result<Snapshot, BenchError> {
    /// So few that most entries hold one command.
    const CLIENTS: usize = 4;
    /// Between two looks at how far the log has grown.
    const ROUND: Duration = Duration::from_secs(1);
    let client = ours::client(local)?;
    let first = client.cluster(false).await?.last_applied;
    let mut last = first;
    let catch_up_ms = away(local, follower, async || {
        let mut round = 0;
        while last < first + entries {
            round += 1;
            let writer = |n| {
                let prefix = format!("missed-{round}-{n}");
                Ok(Sandboxes::new(ours::client(local)?, &prefix, What::Waiting))
            };
            let writers = (0..CLIENTS).map(writer).collect::<Result<Vec<_>, BenchError>>()?;
            load::run(writers, ROUND).await?;
            last = client.cluster(false).await?.last_applied;
        }
        Ok(())
    })
    .await?;
    let bytes = ours::snapshot_bytes(local, follower)?;
    Ok(Snapshot {
        mib: bytes as f64 / BYTES_PER_MIB,
        missed_entries: last - first,
        catch_up_ms,
    })
}

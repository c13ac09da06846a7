//! A replica that lacks everything gets it as one large snapshot: how long that takes, and what memory it takes on either
//! side beyond what the state takes anyway.
//!
//! A replica keeps the whole state in memory, so that one that gets it grows by that. What is measured apart from it: how
//! far the receiver grows until all bytes have arrived, which are files on its disk then, and how far it exceeds at its
//! peak what it has once it has loaded them.

use super::ours::{self, Replica, What};
use crate::error::BenchError;
use crate::local::Local;
use crate::process::{KIB_PER_MIB, sum_kib, with_argument};
use nix::sys::signal::Signal;
use proto::units::Bytes;
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};

/// Clients that fill the state.
const FILLERS: u64 = 4;
/// So much is written at least: the log keeps 256 MiB behind a snapshot, which is taken every 64 MiB.
const WRITTEN: Bytes = Bytes::mib(448);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For each step of its way.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the receiver logs once all bytes have arrived and are right.
const ARRIVED: &str = "installing a snapshot from the leader";
const BYTES_PER_MIB: f64 = 1_048_576.0;

#[derive(Debug, Serialize)]
pub(super) struct Sent {
    /// Of all its files.
    pub(super) mib: f64,
    /// From the start of the receiver's process until all bytes have arrived, and until it has everything.
    pub(super) arrived_ms: f64,
    pub(super) caught_up_ms: f64,
    /// The sender's peak above what it had before.
    pub(super) sender_mib: f64,
    /// The receiver's peak until all bytes had arrived, above what it had with an empty state.
    pub(super) receiver_mib: f64,
    /// The receiver's peak from there on, above what it has afterwards.
    pub(super) loading_mib: f64,
    /// What the receiver has afterwards, with the whole state.
    pub(super) after_mib: f64,
    /// Until a backup of the same state was written, and the leader's peak above what it had before.
    pub(super) backup_ms: f64,
    pub(super) backup_mib: f64,
}

/// Resident memory, MiB.
fn now(replica: &Replica) -> Result<f64, BenchError> {
    memory(replica, "VmRSS:")
}

/// The greatest since [`forget_peak`].
fn peak(replica: &Replica) -> Result<f64, BenchError> {
    memory(replica, "VmHWM:")
}

fn memory(replica: &Replica, key: &str) -> Result<f64, BenchError> {
    let kib = sum_kib(replica.pid, "status", &[key]);
    Ok(kib.map_err(read)? / KIB_PER_MIB)
}

/// The peak counts from now on (proc(5), `clear_refs`).
fn forget_peak(replica: &Replica) -> Result<(), BenchError> {
    let path = format!("/proc/{}/clear_refs", replica.pid);
    std::fs::write(path, "5").map_err(read)
}

fn read(source: io::Error) -> BenchError {
    BenchError::System {
        act: "read what a replica takes",
        source,
    }
}

/// Fills a state with `size`, while one replica is away that has nothing of it.
pub(super) async fn measure(local: &Local, size: Bytes) -> Result<Sent, BenchError> {
    let away = ours::replicas(local)?.into_iter().find(|replica| !replica.leads);
    let away = away.ok_or(BenchError::Nothing("followers"))?;
    let empty = now(&away)?;
    ours::signal(&away, Signal::SIGKILL)?;
    let objects = (size.0 / ours::LARGE.0).max(1);
    let rounds = WRITTEN.0.div_ceil(size.0).max(1);
    for round in 0..rounds {
        ours::write_many(local, "large", What::Large { round }, 0, objects, FILLERS).await?;
    }

    // Memory that was used for the filling is not to be had for the sending.
    for replica in ours::replicas(local)? {
        if replica.name != away.name {
            ours::dev(local, &["restart", &replica.name])?;
            all_but(local, 1).await?;
        }
    }
    let leader = find(local, |replica| replica.leads)?.ok_or(BenchError::Nothing("leaders"))?;
    let (backup_ms, backup_mib) = backup(local, &leader)?;
    let before = now(&leader)?;
    forget_peak(&leader)?;
    let begun = Instant::now();
    let mut restarting = local.start("sbxctl", &["dev", "restart", &away.name])?;
    // Faster than to ask for it: of a small state all has arrived after some hundred milliseconds.
    let data = local
        .members()
        .join(&away.name)
        .join("data")
        .display()
        .to_string();
    let receiver = loop {
        match with_argument(&data).map_err(read)? {
            Some(pid) => break Replica { pid, ..away.clone() },
            None => look_again(begun).await?,
        }
    };
    let log = local.members().join(&receiver.name).join("log");
    // It loads at once what has arrived: what was read before a look that found nothing yet is of before.
    let mut receiver_peak = None;
    loop {
        let so_far = peak(&receiver)?;
        if std::fs::read_to_string(&log).map_err(read)?.contains(ARRIVED) {
            break;
        }
        receiver_peak = Some(so_far);
        look_again(begun).await?;
    }
    let arrived = begun.elapsed();
    let receiver_mib = receiver_peak.ok_or(BenchError::Nothing("looks while it arrived"))? - empty;
    forget_peak(&receiver)?;
    all_but(local, 0).await?;
    let caught_up = begun.elapsed();
    tokio::task::block_in_place(|| restarting.wait()).map_err(read)?;
    let after_mib = now(&receiver)?;
    Ok(Sent {
        mib: ours::snapshot_bytes(local, &receiver)? as f64 / BYTES_PER_MIB,
        arrived_ms: arrived.as_secs_f64() * 1_000.0,
        caught_up_ms: caught_up.as_secs_f64() * 1_000.0,
        sender_mib: peak(&leader)? - before,
        receiver_mib,
        loading_mib: peak(&receiver)? - after_mib,
        after_mib,
        backup_ms,
        backup_mib,
    })
}

/// Until a backup is written, milliseconds, and how far the leader has grown for it.
fn backup(local: &Local, leader: &Replica) -> Result<(f64, f64), BenchError> {
    let file = local.dir().join("sandboxd.backup");
    let before = now(leader)?;
    forget_peak(leader)?;
    let begun = Instant::now();
    let args = ["cluster", "backup", &file.display().to_string()];
    tokio::task::block_in_place(|| local.run("sbxctl", &args))?;
    let took = begun.elapsed().as_secs_f64() * 1_000.0;
    std::fs::remove_file(&file).map_err(read)?;
    Ok((took, peak(leader)? - before))
}

fn find(local: &Local, is_meant: impl Fn(&Replica) -> bool) -> Result<Option<Replica>, BenchError> {
    Ok(ours::replicas(local)?.into_iter().find(is_meant))
}

/// Waits until all replicas but so many are there and up to date.
async fn all_but(local: &Local, away: usize) -> Result<(), BenchError> {
    let client = ours::client(local)?;
    let begun = Instant::now();
    loop {
        let cluster = client.cluster(false).await?;
        let there = cluster.replicas.iter().filter(|r| r.reachable && r.lag == 0);
        if cluster.leader_id != 0 && there.count() + away >= cluster.replicas.len() {
            return Ok(());
        }
        look_again(begun).await?;
    }
}

async fn look_again(begun: Instant) -> Result<(), BenchError> {
    if begun.elapsed() > PATIENCE {
        return Err(BenchError::Timeout {
            what: "the way of a snapshot".to_owned(),
            seconds: PATIENCE.as_secs(),
        });
    }
    tokio::time::sleep(LOOK_EVERY).await;
    Ok(())
}

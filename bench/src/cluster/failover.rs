//! How long a write waits when the leader is killed, frozen or cut off, again and again.

use super::load::Writer;
use super::ours::{self, Replica, Sandboxes, What};
use crate::error::BenchError;
use crate::local::Local;
use crate::quantile::Summary;
use clap::ValueEnum;
use nix::sys::signal::Signal;
use serde::Serialize;
use std::time::{Duration, Instant};

/// What becomes of the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum How {
    /// SIGKILL: its connections are closed by the kernel
    Kill,
    /// SIGSTOP: its connections stay, and nothing is answered
    Pause,
    /// Its packets are dropped on the way to the other replicas; clients reach it
    Partition,
}

#[derive(Debug, Serialize)]
pub(super) struct Failover {
    pub(super) contender: &'static str,
    pub(super) how: How,
    /// Until a client of the other replicas has its write acknowledged.
    pub(super) others: Summary,
    /// Until a client has that spoke to the leader all the time.
    pub(super) same_client: Option<Summary>,
}

/// Takes the leader away so many times.
pub(super) async fn measure(local: &Local, how: How, trials: u32) -> Result<Failover, BenchError> {
    let (mut others, mut same) = (Vec::new(), Vec::new());
    for trial in 0..trials {
        let (other, old) = once(local, how, trial).await?;
        others.push(other);
        same.push(old);
    }
    Ok(Failover {
        contender: super::OURS,
        how,
        others: Summary::of(&others).ok_or(BenchError::Nothing("trials"))?,
        same_client: Summary::of(&same),
    })
}

async fn once(local: &Local, how: How, trial: u32) -> Result<(Duration, Duration), BenchError> {
    ours::whole(local).await?;
    let replicas = ours::replicas(local)?;
    let leader = replicas.iter().find(|replica| replica.leads).cloned();
    let leader = leader.ok_or(BenchError::Nothing("leaders"))?;
    let others = replicas.iter().filter(|replica| !replica.leads);
    let others = others.map(|replica| replica.endpoint.clone()).collect();
    let prefix = format!("failover-{how:?}-{trial}").to_lowercase();
    let faithful = Sandboxes::new(ours::client(local)?, &format!("{prefix}-same"), What::Waiting);
    let open = ours::client_of(local, others)?;
    // Connected before, as clients are.
    faithful.write(0).await?;
    open.cluster(true).await?;
    let other = Sandboxes::new(open, &format!("{prefix}-other"), What::Waiting);
    let timed = async |writer: &Sandboxes, begun: Instant| {
        writer.write(1).await?;
        Ok::<_, BenchError>(begun.elapsed())
    };
    let begun = Instant::now();
    take_away(local, how, &leader)?;
    // A partition takes a program that takes its time: what counts is that it holds.
    let begun = if how == How::Partition {
        Instant::now()
    } else {
        begun
    };
    let measured = tokio::try_join!(timed(&other, begun), timed(&faithful, begun));
    bring_back(local, how, &leader)?;
    measured
}

fn take_away(local: &Local, how: How, leader: &Replica) -> Result<(), BenchError> {
    match how {
        How::Kill => ours::signal(leader, Signal::SIGKILL),
        How::Pause => ours::signal(leader, Signal::SIGSTOP),
        How::Partition => ours::dev(local, &["partition", &leader.name]),
    }
}

fn bring_back(local: &Local, how: How, leader: &Replica) -> Result<(), BenchError> {
    match how {
        How::Kill => ours::dev(local, &["restart", &leader.name]),
        How::Pause => ours::signal(leader, Signal::SIGCONT),
        How::Partition => ours::dev(local, &["heal"]),
    }
}

//! `sbxbench cluster`: the control plane under load, on real replicas with real disks, with simulated agents over real
//! connections, and beside it etcd on the same machine in the same run.
//!
//! | file | owns |
//! |---|---|
//! | `load` | clients that write, and how long that takes |
//! | `ours`, `etcd` | whom they write to |
//! | `disk` | the floor under every acknowledged write |
//! | `placement` | the scheduler alone, in this process |
//! | `burst` | from pending to scheduled, very many at once |
//! | `failover` | leaders that are killed, frozen, cut off |
//! | `fleet` | simulated agents |
//! | `storm` | all of those at once: after a leader's death, and as a flood of reports |
//! | `scale` | memory, processor time and times against size |
//! | `snapshot` | a replica that lacks everything, and what memory its way back takes |
//! | `report` | the figures as JSON, as tables and as charts |

mod burst;
mod disk;
mod etcd;
mod failover;
mod fleet;
mod load;
mod ours;
mod placement;
mod report;
mod scale;
mod snapshot;
mod storm;

use crate::error::BenchError;
use crate::local::Local;
use crate::output::{say, tell, write_file};
use clap::{Args, ValueEnum};
use etcd::{Etcd, Home};
use failover::How;
use fleet::Fleet;
use ours::{Replica, Sandboxes, What};
use proto::units::Bytes;
use proto::wire;
use report::{Report, Writes};
use scale::Step;
use std::path::PathBuf;
use std::time::Duration;

const OURS: &str = "sandboxd";
/// Writes of ours that nothing follows from: a sandbox that waits is explained and, once there is room, placed.
const BARE: &str = "sandboxd, a name";
const ETCD: &str = "etcd";
/// As etcd's own, so that the medians mean something.
const SYNCS: usize = 500;
/// Clients of a burst.
const BURST_CLIENTS: u64 = 50;
/// The sizes of `scale`, as parts of the whole one.
const PARTS: [u64; 3] = [100, 10, 1];
/// Beyond what the log keeps for a replica that was away (see the control plane's `tuning`).
const MISSED_ENTRIES: u64 = 21_000;
/// Most of a cluster: agents that a machine can simulate beside replicas.
const MAX_AGENTS: u64 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Where sbxctl and sbxorch are; by default where sbxbench is
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// The program that writes and failovers are measured beside; left out, and told, where it is not installed
    #[arg(long, value_name = "FILE", default_value = "etcd")]
    etcd: PathBuf,
    /// What to measure
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "writes,placement,burst,failover,storm,scale,snapshot"
    )]
    only: Vec<Part>,
    /// Everything in small: to see that it works, not to measure
    #[arg(long)]
    quick: bool,
    /// Clients that write at the same time, a case each
    #[arg(long, value_delimiter = ',', default_value = "1,64,256", value_parser = clap::value_parser!(u32).range(1..=4_096))]
    clients: Vec<u32>,
    /// How long each measurement lasts whose end does not follow from itself
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Sandboxes of the burst
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    burst: u64,
    /// What becomes of leaders
    #[arg(long, value_delimiter = ',', default_value = "kill,pause,partition")]
    failover: Vec<How>,
    /// How often each of it does
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    trials: u32,
    /// Simulated agents of the storm, and of the largest size
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=MAX_AGENTS))]
    agents: u64,
    /// Sandboxes of the largest size; the others have a tenth and a hundredth of agents and sandboxes
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    sandboxes: u64,
    /// Of the state that a replica gets as a snapshot
    #[arg(long, value_name = "SIZE", default_value = "1Gi", value_parser = Bytes::parse)]
    snapshot_size: Bytes,
    /// How often an agent says that it lives
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    heartbeat: Duration,
    /// Write all figures there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw writes and failovers beside etcd's there
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw what a cluster costs against its size there
    #[arg(long, value_name = "FILE")]
    scale_svg: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Latency and throughput of acknowledged writes, beside fdatasync and etcd
    Writes,
    /// What the scheduler does on one core
    Placement,
    /// Very many sandboxes at once, from pending to scheduled
    Burst,
    /// Until a write is acknowledged after the leader was killed, frozen, cut off
    Failover,
    /// All agents at once, after a leader's death and as a flood of reports
    Storm,
    /// What a cluster costs at 1, 10 and 100 parts of the largest size
    Scale,
    /// A replica that lacks everything gets it as one large snapshot
    Snapshot,
}

/// How much of everything.
#[derive(Debug, Clone)]
struct Amounts {
    clients: Vec<u32>,
    time: Duration,
    burst: u64,
    trials: u32,
    agents: u64,
    sandboxes: u64,
    missed_entries: Option<u64>,
    /// Nodes, placed, burst.
    placement: [usize; 3],
    snapshot: Bytes,
}

impl Amounts {
    fn of(args: &ClusterArgs) -> Self {
        if args.quick {
            return Self {
                clients: vec![1, 8],
                time: Duration::from_millis(500),
                burst: 20,
                trials: 1,
                agents: 20,
                sandboxes: 100,
                missed_entries: None,
                placement: [50, 500, 500],
                snapshot: Bytes::mib(64),
            };
        }
        Self {
            clients: args.clients.clone(),
            time: args.time,
            burst: args.burst,
            trials: args.trials,
            agents: args.agents,
            sandboxes: args.sandboxes,
            missed_entries: Some(MISSED_ENTRIES),
            placement: [5_000, 100_000, 20_000],
            snapshot: args.snapshot_size,
        }
    }
}

/// Measures, prints, writes.
///
/// # Errors
/// [`BenchError`], where our own cluster can't be measured.
pub(crate) async fn run(args: ClusterArgs) -> Result<(), BenchError> {
    let amounts = Amounts::of(&args);
    let mut report = Report::new();
    for part in &args.only {
        Box::pin(measure(*part, &args, &amounts, &mut report)).await?;
    }
    say(&report.tables())?;
    let files = [
        (&args.json, report.json()),
        (&args.svg, report.compared()),
        (&args.scale_svg, report.scaled()),
    ];
    for (path, text) in files {
        if let Some(path) = path {
            write_file(path, &text)?;
        }
    }
    Ok(())
}

/// Each part has a cluster of its own, so that none is measured on what another has left.
async fn measure(
    part: Part,
    args: &ClusterArgs,
    amounts: &Amounts,
    report: &mut Report,
) -> Result<(), BenchError> {
    match part {
        Part::Writes => writes(args, amounts, report).await,
        Part::Placement => {
            tell("placement");
            let manifest = wire::Manifest::from(&ours::manifest("sample", What::Placed)?);
            let [nodes, placed, burst] = amounts.placement;
            report.placement = Some(placement::measure(&manifest, nodes, placed, burst));
            Ok(())
        }
        Part::Burst => {
            tell(format_args!("burst of {}", amounts.burst));
            let (local, mut fleet) = with_fleet(args)?;
            fleet
                .grow(usize::try_from(amounts.agents / 50).unwrap_or(0).max(2))
                .await?;
            let clients = BURST_CLIENTS.min(amounts.burst);
            report.burst = Some(burst::measure(&local, &fleet, amounts.burst, clients).await?);
            Ok(())
        }
        Part::Failover => failovers(args, amounts, report).await,
        Part::Storm => {
            let agents = usize::try_from(amounts.agents).unwrap_or(usize::MAX);
            tell(format_args!("storm of {agents} agents"));
            let (local, mut fleet) = with_fleet(args)?;
            fleet.grow(agents).await?;
            ours::write_many(&local, "there", What::Placed, 0, amounts.agents * 2, 16).await?;
            report.storm = Some(storm::measure(&local, &fleet, amounts.time).await?);
            Ok(())
        }
        Part::Scale => scales(args, amounts, report).await,
        Part::Snapshot => {
            tell(format_args!("a snapshot of {}", amounts.snapshot));
            let local = without_agents(args)?;
            report.snapshot = Some(snapshot::measure(&local, amounts.snapshot).await?);
            Ok(())
        }
    }
}

async fn writes(args: &ClusterArgs, amounts: &Amounts, report: &mut Report) -> Result<(), BenchError> {
    let local = without_agents(args)?;
    let bytes = ours::size()?;
    let syncs = SYNCS;
    report.fdatasync = Some(disk::fdatasync(local.dir(), bytes, syncs)?);
    let etcd = start_etcd(args, &local, report).await;
    for clients in &amounts.clients {
        tell(format_args!("writes of {clients} clients"));
        for (contender, what) in [(OURS, What::Waiting), (BARE, What::Name)] {
            let writer = |n| {
                let prefix = format!("w{clients}-{n}");
                Ok(Sandboxes::new(ours::client(&local)?, &prefix, what))
            };
            let writers = (0..*clients)
                .map(writer)
                .collect::<Result<Vec<_>, BenchError>>()?;
            let load = load::run(writers, amounts.time).await?;
            report.writes.push(Writes {
                contender,
                bytes,
                load,
            });
        }
        if let Some(etcd) = &etcd {
            let count = usize::try_from(*clients).unwrap_or(usize::MAX);
            let load = load::run(etcd.writers(count, bytes).await?, amounts.time).await?;
            report.writes.push(Writes {
                contender: ETCD,
                bytes,
                load,
            });
        }
    }
    Ok(())
}

async fn failovers(args: &ClusterArgs, amounts: &Amounts, report: &mut Report) -> Result<(), BenchError> {
    let local = without_agents(args)?;
    for how in &args.failover {
        tell(format_args!("failover, {how:?}, {} times", amounts.trials));
        report
            .failovers
            .push(failover::measure(&local, *how, amounts.trials).await?);
    }
    if let Some(mut etcd) = start_etcd(args, &local, report).await {
        tell(format_args!("failover of etcd, {} times", amounts.trials));
        let mut times = Vec::new();
        for _ in 0..amounts.trials {
            times.push(etcd.kill_leader().await?);
        }
        let others = crate::quantile::Summary::of(&times).ok_or(BenchError::Nothing("trials"))?;
        report.failovers.push(failover::Failover {
            contender: ETCD,
            how: How::Kill,
            others,
            same_client: None,
        });
    }
    Ok(())
}

async fn scales(args: &ClusterArgs, amounts: &Amounts, report: &mut Report) -> Result<(), BenchError> {
    let (local, mut fleet) = with_fleet(args)?;
    let mut there = 0;
    for part in PARTS {
        let step = Step {
            agents: usize::try_from((amounts.agents / part).max(1)).unwrap_or(usize::MAX),
            sandboxes: (amounts.sandboxes / part).max(1),
            heartbeat: args.heartbeat,
            time: amounts.time,
            missed_entries: amounts.missed_entries.filter(|_| part == 1),
        };
        tell(format_args!(
            "{} agents, {} sandboxes",
            step.agents, step.sandboxes
        ));
        report
            .scale
            .push(scale::measure(&local, &mut fleet, there, step).await?);
        there = step.sandboxes;
    }
    Ok(())
}

/// Left out, and told why, where it does not start.
async fn start_etcd(args: &ClusterArgs, local: &Local, report: &mut Report) -> Option<Etcd> {
    let homes = ours::replicas(local).map(|replicas| {
        let home = |replica: Replica| Home {
            netns: local.members().join(&replica.name).join("netns"),
            address: replica.address,
        };
        replicas.into_iter().map(home).collect()
    });
    let started = async { Etcd::start(&args.etcd, local.dir().join("etcd"), homes?).await };
    match started.await {
        Ok(etcd) => Some(etcd),
        Err(error) => {
            tell(format_args!("etcd is left out: {error}"));
            report.left_out.insert(ETCD.to_owned(), error.to_string());
            None
        }
    }
}

fn without_agents(args: &ClusterArgs) -> Result<Local, BenchError> {
    up(args, &[])
}

/// Replicas that simulated agents may come to; sandboxes of theirs are kept for good.
fn with_fleet(args: &ClusterArgs) -> Result<(Local, Fleet), BenchError> {
    let heartbeat = format!(
        "--replica-arg=--heartbeat={}",
        humantime::format_duration(args.heartbeat)
    );
    let local = up(args, &[&heartbeat])?;
    // The contract's lease, which is the default.
    let fleet = Fleet::new(&local, Duration::from_secs(60))?;
    Ok((local, fleet))
}

fn up(args: &ClusterArgs, more: &[&str]) -> Result<Local, BenchError> {
    let programs = crate::local::programs(args.programs.as_deref())?;
    // What a cluster can bear is measured, not what it lets its users ask for.
    let base = [
        "--agents",
        "0",
        "--replicas",
        "3",
        "--replica-arg=--create-rate=0",
    ];
    tokio::task::block_in_place(|| Local::up(&programs, &[&base, more].concat()))
}

//! `sbxbench`: measures sandboxd on this machine, and in the same run what it is compared with. A machine's figures mean
//! little alone; ratios within one run do.
//!
//! | module | owns |
//! |---|---|
//! | [`provision`] | the subcommand of that name: from a manifest to an answer on a published port, and back to nothing |
//! | [`cluster`] | the subcommand of that name: the control plane under load |
//! | [`local`] | a cluster of this machine, for as long as a run takes |
//! | [`quantile`] | what is told of many measured times |
//! | [`http`] | the moment when a port answers |
//! | [`process`] | what a process takes |
//! | [`svg`] | charts |
//! | [`output`] | where figures and news go |
//!
//! One file or folder per subcommand. Figures go to stdout and to the files that were asked for, all else to stderr.

mod cluster;
mod error;
mod http;
mod local;
mod output;
mod process;
mod provision;
mod quantile;
mod svg;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Measures sandboxd, and beside it what else is installed on this machine. Needs root.
#[derive(Debug, Parser)]
#[command(name = "sbxbench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How fast sandboxes come and go: each stage, up to the first HTTP 200 on the published port, and deletion
    Provision(provision::ProvisionArgs),
    /// How the control plane bears load: writes and failovers beside etcd, placement, thousands of agents, growth
    Cluster(cluster::ClusterArgs),
}

async fn run(command: Command) -> Result<(), error::BenchError> {
    match command {
        Command::Provision(args) => provision::run(args).await,
        Command::Cluster(args) => Box::pin(cluster::run(args)).await,
    }
}

/// Returns with the error of a run that SIGINT or SIGTERM has ended.
async fn told_to_end() -> Result<(), error::BenchError> {
    let system = |source| error::BenchError::System {
        act: "listen for signals",
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err(error::BenchError::Interrupted)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(async {
            // Dropped where it is told to end, so that it clears away what it has made.
            tokio::select! {
                done = run(arguments.command) => done,
                told = told_to_end() => told,
            }
        }),
        Err(source) => Err(error::BenchError::System {
            act: "start the runtime",
            source,
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing to fall back to where stderr is closed as well: the exit code still tells.
            writeln!(std::io::stderr(), "sbxbench: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

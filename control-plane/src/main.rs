//! `sbxorch`: parses the command line, resolves the settings and runs what was asked for.

use anyhow::Context;
use clap::{Parser, Subcommand};
use control_plane::config::{Config, LogFormat, Peer, Settings};
use control_plane::raft;
use control_plane::security::certify;
use control_plane::serve;
use control_plane::state::Level;
use identity::credentials::Credentials;
use identity::dial::Dialer;
use proto::wire::{self, control_client::ControlClient};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Longer than forming a cluster on slow disks takes.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// For tests of upgrades: the replica is one of the last version that spoke this format level. It says so, and neither
/// proposes, applies nor loads what goes beyond. No setting: nobody runs a cluster so.
const LEVEL_VARIABLE: &str = "SANDBOXD_TEST_LEVEL";

/// A replica of sandboxd's control plane. Without a command it runs until SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "sbxorch", version)]
struct Cli {
    /// A TOML file with settings; flags and SBX_... variables win over it
    #[arg(long, env = "SBX_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at this replica's settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Set up a cluster
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Make a new cluster of a backup, as the data folder of its one replica. --data-dir must not be there yet;
    /// --advertise and --advertise-peer are its addresses; --id is by default the next number that the old cluster did
    /// not use. Agents of the old cluster come by themselves where they find this replica at an address they know
    Restore {
        /// What `sbxctl cluster backup` has written
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the settings in force as a TOML file
    Print,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Form a new cluster of the running, empty replicas that --initial-cluster lists. Run it once, anywhere
    Init {
        /// The replica to ask [default: the first one of --initial-cluster]
        #[arg(long, value_name = "URL")]
        server: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may go elsewhere, or not be set up yet: whoever started this reads stderr.
            writeln!(std::io::stderr(), "sbxorch: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = match &cli.config {
        Some(path) => cli.settings.or(Settings::read(path)?),
        None => cli.settings,
    };
    let settings = settings.or(Settings::of_standards());
    match cli.command {
        Some(Command::Config(ConfigCommand::Print)) => {
            let text = settings.or_defaults().to_toml()?;
            std::io::stdout().write_all(text.as_bytes())?;
            Ok(())
        }
        Some(Command::Cluster(ClusterCommand::Init { server })) => {
            let settings = settings.or_defaults();
            let dialer = match settings.insecure {
                Some(true) => Dialer::plain(),
                Some(false) | None => {
                    let dir = settings.tls_dir.unwrap_or_default();
                    Dialer::following(Credentials::open(&dir).context("no TLS; --insecure does without")?)
                }
            };
            let members = settings.initial_cluster.unwrap_or_default();
            runtime()?.block_on(init(server, &members, &dialer))
        }
        Some(Command::Restore { file }) => restore(&file, settings),
        None => {
            log(&settings)?;
            let config = Config {
                level: level()?,
                ..settings.or_owner()?.check()?
            };
            runtime()?.block_on(replica(config))
        }
    }
}

/// The format level up to which this replica speaks.
fn level() -> anyhow::Result<Level> {
    let Some(text) = std::env::var_os(LEVEL_VARIABLE) else {
        return Ok(Level::NEWEST);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    let level = number.map(Level).filter(|level| *level <= Level::NEWEST);
    level.with_context(|| format!("{LEVEL_VARIABLE}: a number up to {} is wanted", Level::NEWEST.0))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start worker threads")
}

fn log(settings: &Settings) -> anyhow::Result<()> {
    let settings = settings.clone().or_defaults();
    let filter = settings.log.unwrap_or_default();
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("log: `{filter}` is not a filter"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that can't be written, as on a full disk, is lost; to complain of it on the same stream would panic.
        .log_internal_errors(false);
    match settings.log_format.unwrap_or(LogFormat::Human) {
        LogFormat::Human => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

async fn replica(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
    };
    let replica = serve::start(config).await?;
    tracing::info!(address = %replica.address(), "serving users and agents");
    replica.run(stop).await?;
    Ok(())
}

fn restore(file: &Path, settings: Settings) -> anyhow::Result<()> {
    let id = settings.id;
    // Any number will do to check the rest.
    let config = Settings {
        id: Some(id.unwrap_or(1)),
        initial_cluster: Some(Vec::new()),
        join: Some(Vec::new()),
        ..settings
    }
    .check()?;
    let own = (config.advertise_peer.clone(), config.advertise.clone());
    let restored = raft::restore(file, &config.data_dir, id, own)?;
    let id = restored.id;
    let certified = match &config.tls {
        Some(files) => certify(files, id, &[&config.advertise, &config.advertise_peer])?,
        None => true,
    };
    let mut out = std::io::stdout();
    let taken = std::time::UNIX_EPOCH + Duration::from_millis(restored.taken_at_ms);
    writeln!(
        out,
        "restored {} sandboxes and {} nodes as of {} into {}, as replica {id}",
        restored.sandboxes,
        restored.nodes,
        humantime::format_rfc3339_seconds(taken),
        config.data_dir.display()
    )?;
    if !certified {
        writeln!(
            out,
            "It has no certificate, and there is no authority's key to make one: give it one of replica/{id}."
        )?;
    }
    writeln!(
        out,
        "Start it with the same settings, without --initial-cluster; further replicas join it, see `sbxctl token create \
         --join-replica`. Replicas of the old cluster must not be started again."
    )?;
    Ok(())
}

async fn init(server: Option<String>, members: &[Peer], dialer: &Dialer) -> anyhow::Result<()> {
    let Some(first) = members.first() else {
        anyhow::bail!(
            "which replicas shall form the cluster? List them with --initial-cluster ID=PEER_URL=URL,..."
        );
    };
    let server = server.unwrap_or_else(|| first.endpoint.clone());
    let endpoint = dialer
        .endpoint(&server)
        .with_context(|| format!("the address of a replica, `{server}`,"))?
        .timeout(INIT_TIMEOUT);
    let channel = dialer
        .connect(&endpoint)
        .await
        .with_context(|| format!("cannot reach the replica at {server}"))?;
    let replicas = members.iter().map(wire::Replica::from).collect();
    ControlClient::new(channel)
        .init_cluster(wire::InitClusterRequest { replicas })
        .await
        .map_err(|status| anyhow::anyhow!("{server} did not form the cluster: {}", status.message()))?;
    let size = members.len();
    writeln!(
        std::io::stdout(),
        "cluster of {size} formed; see `sbxctl --server {server} get cluster`"
    )?;
    Ok(())
}

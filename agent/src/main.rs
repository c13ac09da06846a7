//! `sbxlet`, the agent of a node: reads the command line, and runs the agent or one of the small commands beside it.
//!
//! The monitor of a sandbox is this program as well. It is one thread and small, so nothing is set up before it
//! is known what is asked for.

mod commands;

use agent::config::{LogFormat, Settings};
use agent::run;
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use commands::image::ImageCommand;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Without a command, runs the agent of this node. It needs root. Sandboxes go on when it ends, and it finds
/// them again when it starts.
#[derive(Debug, Parser)]
#[command(name = "sbxlet", version, about = "The node agent of sandboxd", long_about)]
struct Arguments {
    #[command(flatten)]
    configuration: Configuration,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Configuration {
    /// A TOML file with settings; flags and SBX_... variables go before it
    #[arg(long, env = "SBX_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Works on the images of this node, whether an agent runs or not
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Divides into the monitors of sandboxes, which watch containers; started by the agent
    #[command(hide = true)]
    Nursery {
        /// Room for what `ps` shows of monitors
        room: String,
    },
    /// Copies files into a container or out of it; started by the agent
    #[command(hide = true)]
    Copy(agent::runtime::copy::Task),
    /// Starts a process in a container of the built-in runtime; started by its monitor
    #[command(hide = true)]
    Enter(agent::runtime::process::Enter),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the settings in force, as a file that --config reads
    Print,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Some(Command::Enter(enter)) => return agent::runtime::process::enter(&enter),
        Some(Command::Nursery { .. }) => return agent::runtime::monitor::nursery_main(),
        Some(Command::Copy(task)) => return agent::runtime::copy::main(&task),
        Some(Command::Config {
            command: ConfigCommand::Print,
        }) => print_config(arguments.configuration),
        Some(Command::Image { command }) => work_on_images(arguments.configuration, command),
        None => run_agent(arguments.configuration),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing to fall back to where stderr is closed as well: the exit code still tells.
            writeln!(std::io::stderr(), "sbxlet: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

impl Configuration {
    fn merged(self) -> anyhow::Result<Settings> {
        let settings = match &self.config {
            Some(path) => self.settings.or(Settings::read(path)?),
            None => self.settings,
        };
        Ok(settings.or(Settings::of_standards()).or_defaults())
    }
}

fn print_config(configuration: Configuration) -> anyhow::Result<()> {
    let text = configuration.merged()?.to_toml()?;
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("write the settings")
}

fn work_on_images(configuration: Configuration, command: ImageCommand) -> anyhow::Result<()> {
    let settings = configuration.merged()?;
    let state_dir = settings.state_dir.clone().unwrap_or_default();
    let (registries, policy) = settings.images()?;
    let open = || run::open_images(&state_dir, registries, policy);
    runtime()?.block_on(commands::image::run(&run::images(&state_dir), open, command))
}

fn run_agent(configuration: Configuration) -> anyhow::Result<()> {
    let settings = configuration.merged()?;
    let filter = settings.log.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(filter).with_context(|| format!("log: `{filter}` is no filter"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match settings.log_format {
        Some(LogFormat::Json) => log.json().init(),
        Some(LogFormat::Human) | None => log.init(),
    }
    let config = settings.check()?;
    run::prepare_process();
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let asked = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping; sandboxes go on");
            asked.cancel();
        });
        run::run(config, stop).await.map_err(anyhow::Error::from)
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

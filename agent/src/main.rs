//! `sbxlet`, the agent of a node.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "sbxlet", version, about = "The node agent of sandboxd")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watches the containers of one sandbox; started by the agent
    #[command(hide = true)]
    Monitor {
        #[arg(long)]
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Monitor { dir } => agent::runtime::monitor::main(&dir),
    }
}

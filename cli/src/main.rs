//! `sbxctl`: parse the command line, run it, say how it ended by the exit code.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(cli::args::Cli::parse())
}

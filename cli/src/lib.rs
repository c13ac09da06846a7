//! The command line of sandboxd: it speaks to the control plane for a person or a script.
//!
//! | module | owns |
//! |---|---|
//! | [`args`] | the command line as types, and its help |
//! | [`client`] | endpoints, redirects, retries under one request id, deadlines |
//! | [`commands`] | one folder per verb |
//! | [`output`] | objects as tables, JSON and YAML |
//! | [`dev`] | a local cluster of real processes, each a host of its own |
//! | [`failure`] | how a command ends when it does not succeed, and with which exit code |
//! | [`invocation`] | what a running command has at hand: options, streams, the cluster's endpoints |
//!
//! Data goes to stdout, all else to stderr. Nothing here decides what a manifest means: that is `proto`'s.

pub mod args;
pub mod client;
pub mod commands;
pub mod context;
pub mod dev;
pub mod failure;
pub mod invocation;
pub mod output;
pub mod provision;

use args::Cli;
use failure::Failure;
use invocation::Invocation;
use std::io::Write;
use std::process::ExitCode;

/// Runs one command line to its end and reports a failure on stderr.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let mut stderr = std::io::stderr();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("SBX_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            // Nothing to fall back to where stderr is closed as well: the exit code still tells.
            writeln!(stderr, "sbxctl: start the runtime: {source}").ok();
            return ExitCode::FAILURE;
        }
    };
    let mut invocation = Invocation::new(
        cli.global,
        Box::new(std::io::stdout()),
        Box::new(std::io::stderr()),
    );
    let ended = runtime.block_on(async {
        let ended = commands::run(cli.command, &mut invocation).await;
        invocation.flush()?;
        ended
    });
    // A thread that still waits for our input holds up nobody.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                writeln!(stderr, "sbxctl: {failure}").ok();
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(source: std::io::Error) -> Self {
        Self::Output(source)
    }
}

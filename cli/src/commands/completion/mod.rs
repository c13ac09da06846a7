//! `sbxctl completion`: a script for the user's shell.

use crate::args::Cli;
use crate::failure::Failure;
use crate::invocation::Invocation;
use clap::CommandFactory;

/// # Errors
/// [`Failure::Output`]
pub fn run(shell: clap_complete::Shell, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("completion")?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sbxctl", &mut script);
    invocation.write(&script)
}

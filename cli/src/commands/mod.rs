//! One folder per verb; each `run` takes its parsed arguments and an [`Invocation`].

pub mod apply;
pub mod attach;
pub mod cluster;
pub mod completion;
pub mod cp;
pub mod delete;
pub mod describe;
pub mod drain;
pub mod events;
pub mod exec;
pub mod get;
pub mod logs;
pub mod policy;
pub mod port_forward;
pub mod target;
pub mod token;
pub mod validate;
pub mod wait;

use crate::args::Command;
use crate::dev;
use crate::failure::Failure;
use crate::invocation::Invocation;

/// # Errors
/// [`Failure`]: how the command ended.
pub async fn run(command: Command, invocation: &mut Invocation) -> Result<(), Failure> {
    match command {
        Command::Apply(args) => apply::run(&args, invocation).await,
        Command::Get(args) => get::run(&args, invocation).await,
        Command::Describe(args) => describe::run(&args, invocation).await,
        Command::Events(args) => events::run(&args, invocation).await,
        Command::Delete(args) => delete::run(&args, invocation).await,
        Command::Cp(args) => cp::run(&args, invocation).await,
        Command::PortForward(args) => port_forward::run(&args, invocation).await,
        Command::Logs(args) => logs::run(&args, invocation).await,
        Command::Exec(args) => exec::run(&args, invocation).await,
        Command::Attach(args) => attach::run(&args, invocation).await,
        Command::Wait(args) => wait::run(&args, invocation).await,
        Command::Cordon(args) => drain::cordon(&args, invocation).await,
        Command::Uncordon(args) => drain::uncordon(&args, invocation).await,
        Command::Drain(args) => drain::run(&args, invocation).await,
        Command::Policy(args) => policy::run(&args, invocation).await,
        Command::Validate(args) => validate::run(&args, invocation),
        Command::Cluster(args) => cluster::run(&args, invocation).await,
        Command::Token(args) => token::run(&args, invocation).await,
        Command::Dev(args) => dev::run(&args, invocation).await,
        Command::Completion { shell } => completion::run(shell, invocation),
    }
}

/// Goes on with the others where one of several fails: each failure is told when it happens, and counted.
#[derive(Default)]
struct Tally {
    total: usize,
    failed: usize,
    code: u8,
}

impl Tally {
    /// # Errors
    /// What ends everything: no replica answers, or our output is closed.
    fn note<T>(
        &mut self,
        result: Result<T, Failure>,
        invocation: &mut Invocation,
    ) -> Result<Option<T>, Failure> {
        self.total += 1;
        match result {
            Ok(value) => Ok(Some(value)),
            Err(failure @ Failure::Output(_)) => Err(failure),
            Err(Failure::Client(error)) if error.is_timeout() => Err(error.into()),
            Err(failure) => {
                self.failed += 1;
                self.code = failure.exit_code();
                invocation.note(format!("sbxctl: {failure}"));
                Ok(None)
            }
        }
    }

    fn finish(self) -> Result<(), Failure> {
        if self.failed == 0 {
            return Ok(());
        }
        Err(Failure::Several {
            failed: self.failed,
            total: self.total,
            code: self.code,
        })
    }
}

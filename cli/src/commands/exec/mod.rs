//! `sbxctl exec`: a command in a container, as if it ran here.
//!
//! | file | owns |
//! |---|---|
//! | `terminal` | the user's terminal |
//! | `signals` | what this program is sent meanwhile |
//! | `output` | what is said there, written here |

pub(super) mod output;
mod signals;
mod terminal;

use crate::args::ExecArgs;
use crate::client::Says;
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::relay::{Input, MAX_CHUNK};
use proto::wire::{ExecRequest, RelayRequest, relay_request::What};
use signals::Signals;
use terminal::Raw;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

/// # Errors
/// [`Failure::Exited`] with the command's own code where that is not 0, else whatever kept it from being run.
pub async fn run(args: &ExecArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("exec")?;
    if args.tty && !terminal::is_there() {
        return Err(Failure::Usage(
            "-t needs a terminal, and stdin is none: leave -t away".to_owned(),
        ));
    }
    let id = output::sandbox(&args.sandbox);
    let request = RelayRequest {
        sandbox_id: id.to_owned(),
        container: args.container.clone().unwrap_or_default(),
        what: Some(What::Exec(ExecRequest {
            args: args.command.clone(),
            stdin: args.stdin,
            terminal: args.tty.then(terminal::size),
            env: environment(args),
        })),
    };
    let client = invocation.client()?;
    let conversation = client.converse(&format!("exec in sandbox/{id}"), request).await?;
    // Before the terminal is changed, or a signal could leave it so.
    let mut signals = Signals::listen(args.tty)?;
    let _raw = match args.tty && args.stdin {
        true => Some(Raw::enter().map_err(|fault| Failure::Terminal(fault.into()))?),
        false => None,
    };
    let mut feeding = JoinSet::new();
    if args.stdin {
        feeding.spawn(feed(conversation.says.clone()));
    }
    let says = conversation.says;
    let ended = tokio::select! {
        ended = output::write(conversation.hears) => ended?,
        code = signals.pass_on(&says) => return Err(Failure::Exited(code)),
    };
    drop(_raw);
    if !ended.message.is_empty() {
        invocation.note(format_args!(
            "sbxctl: cannot run {}: {}",
            args.command[0], ended.message
        ));
    }
    output::code(ended.code)
}

fn environment(args: &ExecArgs) -> Vec<String> {
    let term = std::env::var("TERM").ok().filter(|_| args.tty);
    let term = term.map(|term| format!("TERM={term}"));
    term.into_iter().chain(args.env.iter().cloned()).collect()
}

/// What is typed, or comes through a pipe, to its end.
async fn feed(says: Says) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(length) if length > 0 => says.say(Input::Data(buffer[..length].to_vec())).await,
            Ok(_) | Err(_) => return says.say(Input::eof()).await,
        }
    }
}

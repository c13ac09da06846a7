//! A command in a container, and a user who speaks with it. The monitor starts it, and ends it with our connection; its
//! streams end here, so that the monitor has nothing to do with what is said.

use super::terminal::{self, Console};
use super::{Found, RelayError, Says, Talk};
use crate::runtime::monitor::{self, Guest, GuestEnd};
use crate::runtime::sys::stream::Stream;
use proto::relay::{Input, MAX_CHUNK, Output};
use proto::wire::{self, MonitorExec, RelayExit};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// What a terminal takes for the end of the input (VEOF).
const END_OF_INPUT: &[u8] = b"\x04";

/// To the command's end.
pub(super) async fn serve(
    request: wire::ExecRequest,
    container: String,
    talk: &mut Talk,
    found: &Found,
) -> Result<(), RelayError> {
    let dir = found.monitor();
    let order = MonitorExec {
        container,
        args: request.args,
        env: request.env,
        terminal: None,
    };
    match request.terminal {
        Some(size) => in_terminal(&dir, order, size, request.stdin, talk).await,
        None => with_pipes(&dir, order, request.stdin, talk).await,
    }
}

async fn with_pipes(dir: &Path, order: MonitorExec, stdin: bool, talk: &mut Talk) -> Result<(), RelayError> {
    let (its_stdin, our_stdin) = if stdin {
        let (its, ours) = io::pipe().map_err(RelayError::Pipe)?;
        let ours = Stream::new(OwnedFd::from(ours)).map_err(RelayError::Pipe)?;
        (OwnedFd::from(its), Some(ours))
    } else {
        // At its end, as `/dev/null` is: that itself is the host's, and crun gives streams to the container's user.
        let (nothing, _) = io::pipe().map_err(RelayError::Pipe)?;
        (OwnedFd::from(nothing), None)
    };
    let (stdout, its_stdout) = output()?;
    let (stderr, its_stderr) = output()?;
    let streams = [its_stdin.as_fd(), its_stdout.as_fd(), its_stderr.as_fd()];
    let mut guest = monitor::exec(dir, order, &streams).await?;
    // Or our own would keep the pipes open.
    drop((its_stdin, its_stdout, its_stderr));
    let over = CancellationToken::new();
    let says = talk.says.clone();
    let outputs = async {
        tokio::join!(
            pass(&stdout, Output::Data, &says, &over),
            pass(&stderr, Output::Stderr, &says, &over)
        )
    };
    let mut input = Pipe(our_stdin);
    converse(&mut guest, talk, &mut input, outputs, &over).await
}

async fn in_terminal(
    dir: &Path,
    mut order: MonitorExec,
    size: wire::TerminalSize,
    stdin: bool,
    talk: &mut Talk,
) -> Result<(), RelayError> {
    let (rows, columns) = terminal::checked(size)?;
    let console = Console::listen(dir).map_err(RelayError::Console)?;
    order.terminal = Some(wire::MonitorTerminal {
        socket: console.name.clone(),
        rows: rows.into(),
        columns: columns.into(),
    });
    let mut guest = monitor::exec(dir, order, &[]).await?;
    let master = tokio::select! {
        master = console.master() => master.map_err(RelayError::Console)?,
        // It could not be started, so that there will be none.
        ended = guest.ended() => return told(&talk.says, ended?).await,
    };
    drop(console);
    terminal::set(&master, size);
    let over = CancellationToken::new();
    let says = talk.says.clone();
    let outputs = pass(&master, Output::Data, &says, &over);
    let mut input = Keyboard {
        master: &master,
        stdin,
    };
    converse(&mut guest, talk, &mut input, outputs, &over).await
}

/// Until the command has ended and all that it has written is said.
async fn converse<T>(
    guest: &mut Guest,
    talk: &mut Talk,
    input: &mut impl Takes,
    outputs: impl Future<Output = T>,
    over: &CancellationToken,
) -> Result<(), RelayError> {
    let mut outputs = std::pin::pin!(outputs);
    let mut are_said = false;
    let ended = loop {
        tokio::select! {
            ended = guest.ended() => break ended?,
            said = talk.hears.next() => match said {
                Some(Input::Signal(number)) => guest.signal(number).await?,
                Some(said) => {
                    // It may not be taken for long: meanwhile the command may write, and end.
                    let mut taken = std::pin::pin!(input.take(said));
                    let ended = loop {
                        tokio::select! {
                            () = &mut taken => break None,
                            ended = guest.ended() => break Some(ended?),
                            _ = &mut outputs, if !are_said => are_said = true,
                        }
                    };
                    if let Some(ended) = ended {
                        break ended;
                    }
                }
                // He has gone.
                None => return Ok(()),
            },
            _ = &mut outputs, if !are_said => are_said = true,
        }
    };
    over.cancel();
    if !are_said {
        outputs.await;
    }
    told(&talk.says, ended).await
}

async fn told(says: &Says, ended: GuestEnd) -> Result<(), RelayError> {
    let exit = Output::Exit(RelayExit {
        code: ended.code,
        message: ended.message,
    });
    // He may have gone.
    says.say(exit).await.ok();
    Ok(())
}

/// Where a command's input goes.
trait Takes {
    async fn take(&mut self, input: Input);
}

/// `None`: it has none, or not any more.
struct Pipe(Option<Stream>);

impl Takes for Pipe {
    async fn take(&mut self, input: Input) {
        match (input, &self.0) {
            (Input::Data(data), Some(stdin)) => {
                if stdin.write_all(&data).await.is_err() {
                    // Nobody reads it any more.
                    self.0 = None;
                }
            }
            (Input::Eof(_), _) => self.0 = None,
            (Input::Data(_), None)
            | (Input::Open(_) | Input::Begin(_) | Input::Resize(_) | Input::Signal(_), _) => {}
        }
    }
}

struct Keyboard<'a> {
    master: &'a Stream,
    stdin: bool,
}

impl Takes for Keyboard<'_> {
    async fn take(&mut self, input: Input) {
        let keys = match &input {
            Input::Data(data) if self.stdin => data,
            Input::Eof(_) if self.stdin => END_OF_INPUT,
            Input::Resize(size) => return terminal::set(self.master, *size),
            Input::Data(_) | Input::Eof(_) | Input::Open(_) | Input::Begin(_) | Input::Signal(_) => return,
        };
        // A terminal that nobody has open any more; that is told otherwise.
        self.master.write_all(keys).await.ok();
    }
}

/// Says all that is written, until nobody writes any more; what is there when it is over is said to the last byte, but
/// what others write that the command has left behind is not waited for.
pub(super) async fn pass(
    stream: &Stream,
    output: impl Fn(Vec<u8>) -> Output,
    says: &Says,
    over: &CancellationToken,
) {
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read.map(Some),
            () = over.cancelled() => stream.read_now(&mut buffer),
        };
        match read {
            Ok(Some(length)) if length > 0 => {
                if says.say(output(buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot read what a command writes");
                return;
            }
        }
    }
}

/// Our end, and the command's.
pub(super) fn output() -> Result<(Stream, OwnedFd), RelayError> {
    let (ours, its) = io::pipe().map_err(RelayError::Pipe)?;
    let ours = Stream::new(OwnedFd::from(ours)).map_err(RelayError::Pipe)?;
    Ok((ours, OwnedFd::from(its)))
}

//! Files into a container, and out of it.

use super::{Found, Hears, RelayError, Says, Talk};
use crate::host;
use crate::runtime::copy::{self, Direction, Task};
use crate::runtime::monitor::Launch;
use proto::relay::{Input, MAX_CHUNK, Output};
use proto::wire::CopyRequest;
use proto::wire::copy_request::Direction as Wanted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};

/// How one side of a copy has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// All of it was passed on, or the other side takes no more, and says why.
    Whole,
    /// The user has gone.
    Left,
}

/// Until all is copied, which its `eof` says.
pub(super) async fn serve(
    request: CopyRequest,
    container: String,
    talk: &mut Talk,
    found: &Found,
) -> Result<(), RelayError> {
    let direction = match request.direction() {
        Wanted::In => Direction::In,
        Wanted::Out => Direction::Out,
        Wanted::Unspecified => return Err(RelayError::Unknown),
    };
    let task = Task {
        monitor: host::monitor(&found.dir),
        container,
        direction,
        path: request.path.into(),
    };
    let (copy, stdin, stdout) = copy::launch(&Launch::this_program(), &task)?;
    let mut ended = std::pin::pin!(copy.ended());
    let passed = match direction {
        Direction::In => tokio::select! {
            passed = feed(stdin, &mut talk.hears) => passed,
            // It has failed: nobody takes what the user may still say.
            early = &mut ended => {
                early?;
                Passed::Left
            }
        },
        Direction::Out => {
            drop(stdin);
            listen(stdout, &talk.says).await
        }
    };
    if passed == Passed::Whole {
        ended.await?;
        // One who has gone needs no word.
        talk.says.say(Output::eof()).await.ok();
    }
    Ok(())
}

/// Returns when the user has said everything; what is closed then is the archive's end.
async fn feed(mut stdin: ChildStdin, hears: &mut Hears) -> Passed {
    while let Some(input) = hears.next().await {
        match input {
            Input::Data(data) => {
                if stdin.write_all(&data).await.is_err() {
                    return Passed::Whole;
                }
            }
            Input::Eof(_) => return Passed::Whole,
            Input::Open(_) | Input::Begin(_) | Input::Resize(_) | Input::Signal(_) => {}
        }
    }
    Passed::Left
}

async fn listen(mut stdout: ChildStdout, says: &Says) -> Passed {
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        // A pipe can't fail to be read but by a fault of ours, and then what was read is not all: the archive is
        // broken, and its reader sees that.
        let length = stdout.read(&mut buffer).await.unwrap_or(0);
        if length == 0 {
            return Passed::Whole;
        }
        if says.say(Output::Data(buffer[..length].to_vec())).await.is_err() {
            return Passed::Left;
        }
    }
}

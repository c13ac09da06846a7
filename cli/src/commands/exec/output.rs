//! What is said in a sandbox, written here as it comes. A slow reader of ours holds up who says it, and not the
//! connection, which must go on answering pings: so nothing is written by the thread that serves it.

use crate::client::Hears;
use crate::failure::{EXIT_FAILED, Failure};
use proto::relay::Output;
use proto::wire::RelayExit;
use tokio::io::{AsyncWrite, AsyncWriteExt, stderr, stdout};

/// To the end.
///
/// # Errors
/// Whatever broke it off.
pub(in crate::commands) async fn write(mut hears: Hears) -> Result<RelayExit, Failure> {
    let (mut out, mut err) = (stdout(), stderr());
    loop {
        match hears.next().await? {
            Some(Output::Data(data)) => all(&mut out, &data).await?,
            Some(Output::Stderr(data)) => all(&mut err, &data).await?,
            Some(Output::Exit(exit)) => return Ok(exit),
            Some(Output::Eof(_)) => {}
            None => return Err(Failure::NeverComes(hears.cut_short())),
        }
    }
}

async fn all(output: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> Result<(), Failure> {
    output.write_all(data).await?;
    output.flush().await?;
    Ok(())
}

/// As the outcome of this program.
pub(in crate::commands) fn code(code: i32) -> Result<(), Failure> {
    match code {
        0 => Ok(()),
        code => Err(Failure::Exited(u8::try_from(code).unwrap_or(EXIT_FAILED))),
    }
}

/// Its id, also where it was written as `sandbox/ID`.
pub(in crate::commands) fn sandbox(text: &str) -> &str {
    text.rsplit_once('/').map_or(text, |(_, id)| id)
}

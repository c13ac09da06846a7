//! What a container writes from now on, byte for byte and as it is written, which log lines are not. Containers have no
//! input.

use super::exec::{output, pass};
use super::{Found, RelayError, Talk};
use crate::runtime::monitor;
use proto::relay::{Input, Output};
use proto::wire::RelayExit;
use std::os::fd::AsFd;
use tokio_util::sync::CancellationToken;

/// To the container's end. What a slow user has missed is told then.
pub(super) async fn serve(container: &str, talk: &mut Talk, found: &Found) -> Result<(), RelayError> {
    let dir = found.monitor();
    let (stdout, its_stdout) = output()?;
    let (stderr, its_stderr) = output()?;
    let streams = [its_stdout.as_fd(), its_stderr.as_fd()];
    let mut guest = monitor::attach_to(&dir, container, streams).await?;
    drop((its_stdout, its_stderr));
    let over = CancellationToken::new();
    let says = talk.says.clone();
    let outputs = async {
        tokio::join!(
            pass(&stdout, Output::Data, &says, &over),
            pass(&stderr, Output::Stderr, &says, &over)
        )
    };
    let ended = async {
        let ended = guest.ended().await;
        over.cancel();
        ended
    };
    let both = async { tokio::join!(outputs, ended).1 };
    let mut both = std::pin::pin!(both);
    let ended = loop {
        tokio::select! {
            ended = &mut both => break ended?,
            said = talk.hears.next() => match said {
                Some(Input::Data(_)) => return Err(RelayError::NoInput(container.to_owned())),
                Some(_) => {}
                None => return Ok(()),
            },
        }
    };
    let message = match ended.lost_bytes {
        0 => String::new(),
        bytes => format!("{bytes} bytes were skipped: they came faster than they were read"),
    };
    let code = ended.code;
    talk.says
        .say(Output::Exit(RelayExit { code, message }))
        .await
        .ok();
    Ok(())
}

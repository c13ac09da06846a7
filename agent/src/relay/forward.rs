//! One connection of a user to a port of a sandbox. Either side may end its half and still hear the other.

use super::{Found, Hears, RelayError, Says, Talk};
use crate::host;
use crate::runtime::forward::{self, ForwardFault};
use crate::runtime::namespace::Pins;
use proto::relay::{Input, MAX_CHUNK, Output};
use proto::wire::ForwardRequest;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Until both sides have said everything.
pub(super) async fn serve(request: ForwardRequest, talk: &mut Talk, found: &Found) -> Result<(), RelayError> {
    let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
    let port = port.ok_or(RelayError::Port(request.port))?;
    let net = Pins::below(&host::pins(&found.dir)).net;
    let stream = forward::connect(&net, found.report.ip.parse().ok(), port).await?;
    let (from, to) = stream.into_split();
    let broken = |source| RelayError::Forward(ForwardFault::Broken { port, source });
    let Talk { hears, says } = talk;
    tokio::try_join!(there(to, hears), back(from, says)).map_err(broken)?;
    Ok(())
}

/// What the user says. Returns when he has said everything.
async fn there(mut to: OwnedWriteHalf, hears: &mut Hears) -> io::Result<()> {
    while let Some(input) = hears.next().await {
        match input {
            Input::Data(data) => to.write_all(&data).await?,
            Input::Eof(_) => return to.shutdown().await,
            Input::Open(_) | Input::Begin(_) | Input::Resize(_) | Input::Signal(_) => {}
        }
    }
    // He has gone, and does not hear any more either.
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// What the program says. Returns when it has said everything.
async fn back(mut from: OwnedReadHalf, says: &Says) -> io::Result<()> {
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        let (length, output) = match from.read(&mut buffer).await? {
            0 => (0, Output::eof()),
            length => (length, Output::Data(buffer[..length].to_vec())),
        };
        let heard = says.say(output).await;
        if length == 0 || heard.is_err() {
            return Ok(());
        }
    }
}

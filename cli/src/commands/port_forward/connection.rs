//! One connection: what comes from this machine goes to the sandbox, and back. Either side may end its half.

use crate::client::{Client, ClientError, Conversation, Hears, Says};
use proto::relay::{Input, MAX_CHUNK, Output};
use proto::wire::{self, relay_request::What};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Why a connection has ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionFault {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the program on this machine broke the connection: {0}")]
    Local(#[from] io::Error),
    #[error("the sandbox's node ended the connection")]
    Ended,
}

/// Carries one connection to the end of both its halves.
pub(super) async fn carry(
    client: &Client,
    sandbox: &str,
    port: u16,
    stream: TcpStream,
) -> Result<(), ConnectionFault> {
    stream.set_nodelay(true)?;
    let request = wire::RelayRequest {
        sandbox_id: sandbox.to_owned(),
        container: String::new(),
        what: Some(What::Forward(wire::ForwardRequest { port: port.into() })),
    };
    let act = format!("port {port} of sandbox/{sandbox}");
    let Conversation { says, hears } = client.converse(&act, request).await?;
    let (from, to) = stream.into_split();
    tokio::try_join!(there(from, says), back(hears, to))?;
    Ok(())
}

async fn there(mut from: OwnedReadHalf, says: Says) -> Result<(), ConnectionFault> {
    let mut buffer = vec![0; MAX_CHUNK];
    loop {
        match from.read(&mut buffer).await? {
            0 => {
                says.say(Input::eof()).await;
                return Ok(());
            }
            length => says.say(Input::Data(buffer[..length].to_vec())).await,
        }
    }
}

async fn back(mut hears: Hears, mut to: OwnedWriteHalf) -> Result<(), ConnectionFault> {
    let mut is_open = true;
    loop {
        match hears.next().await? {
            Some(Output::Data(data)) => to.write_all(&data).await?,
            Some(Output::Eof(_)) => {
                is_open = false;
                to.shutdown().await?;
            }
            Some(Output::Stderr(_) | Output::Exit(_)) => {}
            // Comes once the sandbox has heard everything as well.
            None if is_open => return Err(ConnectionFault::Ended),
            None => return Ok(()),
        }
    }
}

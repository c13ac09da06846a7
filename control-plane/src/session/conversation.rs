//! A user and something in his sandbox, speaking with each other: exec, attach, copy, port-forward. What each of them
//! says is passed on as it is, and neither is read faster than the other takes it. Made for `api`.

use super::relay::{Down, Relay, RelayError};
use super::{SessionError, Sessions};
use futures::{Stream, StreamExt};
use proto::id::NodeId;
use proto::relay::{Input, MAX_CHUNK};
use proto::wire::{self, open_relay, relay_down, relay_up};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

/// What comes from the sandbox. Dropped, it ends there as well.
pub struct Conversation {
    relay: Relay,
    /// Passes on what the user says; `None` once he has said everything.
    feeding: Option<AbortOnDropHandle<Result<(), RelayError>>>,
}

impl Sessions {
    /// Lets a user speak with what he asks for, which is on `node`. `input` is what he says from now on.
    ///
    /// # Errors
    /// [`RelayError`]; nothing was done then.
    pub async fn converse(
        &self,
        node: &NodeId,
        request: wire::RelayRequest,
        input: impl Stream<Item = Result<wire::RelayInput, Status>> + Send + 'static,
    ) -> Result<Conversation, RelayError> {
        let relay = self.ask(node, open_relay::What::Conversation(request)).await?;
        let feeding = tokio::spawn(feed(input, relay.down().clone()));
        Ok(Conversation {
            relay,
            feeding: Some(AbortOnDropHandle::new(feeding)),
        })
    }
}

impl Conversation {
    /// What comes next; `None`: nothing more does. Cancel safe.
    ///
    /// # Errors
    /// [`RelayError`]
    pub async fn next(&mut self) -> Result<Option<wire::RelayOutput>, RelayError> {
        loop {
            let said = tokio::select! {
                said = self.relay.next() => said?,
                fed = fed(&mut self.feeding) => {
                    fed?;
                    continue;
                }
            };
            match said {
                Some(relay_up::Message::Output(output)) => return Ok(Some(output)),
                Some(
                    relay_up::Message::RelayId(_) | relay_up::Message::Error(_) | relay_up::Message::Logs(_),
                ) => {}
                None => return Ok(None),
            }
        }
    }
}

/// How the user's side has ended; for ever once that is known.
async fn fed(feeding: &mut Option<AbortOnDropHandle<Result<(), RelayError>>>) -> Result<(), RelayError> {
    let Some(task) = feeding else {
        return std::future::pending().await;
    };
    let ended = task.await;
    *feeding = None;
    // Only this replica's end aborts it.
    ended.unwrap_or_else(|_| Err(SessionError::Stopping.into()))
}

/// Until the user has said everything, or the agent does not listen any more, which its own side tells of.
async fn feed(
    input: impl Stream<Item = Result<wire::RelayInput, Status>>,
    down: Down,
) -> Result<(), RelayError> {
    tokio::pin!(input);
    let pass = async |input: Input| {
        let message = Some(relay_down::Message::Input(input.into()));
        down.send(Ok(wire::RelayDown { message })).await.is_ok()
    };
    loop {
        // One whose connection broke is gone, and his side of the answer with him.
        let Ok(said) = input.next().await.transpose() else {
            return Ok(());
        };
        let said = match said.map(|said| said.input) {
            Some(Some(Input::Open(_))) => return Err(RelayError::Input("a conversation is opened once")),
            Some(Some(Input::Data(data))) if data.len() > MAX_CHUNK => {
                return Err(RelayError::Input("a message carries at most 64 KiB"));
            }
            Some(Some(said)) => said,
            // Of a newer version.
            Some(None) => continue,
            None => {
                pass(Input::eof()).await;
                return Ok(());
            }
        };
        if !pass(said).await {
            return Ok(());
        }
    }
}

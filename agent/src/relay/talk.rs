//! Both directions of a user's stream, as the handlers have them. Made by `session`.

use proto::relay::{Input, Output};
use proto::wire::{RelayDown, RelayUp, relay_down, relay_up};
use tokio::sync::mpsc;
use tonic::Streaming;

/// The two can be used at one time.
#[derive(Debug)]
pub struct Talk {
    pub hears: Hears,
    pub says: Says,
}

/// What the user says.
#[derive(Debug)]
pub struct Hears(Streaming<RelayDown>);

/// What he is told. Clones speak into the same stream.
#[derive(Debug, Clone)]
pub struct Says(mpsc::Sender<RelayUp>);

/// The user has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user has gone")]
pub struct Left;

impl Talk {
    pub(crate) fn new(down: Streaming<RelayDown>, up: mpsc::Sender<RelayUp>) -> Self {
        Self {
            hears: Hears(down),
            says: Says(up),
        }
    }
}

impl Hears {
    /// What he says next; `None`: he has gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Input> {
        loop {
            let down = self.0.message().await.ok().flatten()?;
            // Of a newer version where it is anything else.
            if let Some(relay_down::Message::Input(input)) = down.message
                && let Some(input) = input.input
            {
                return Some(input);
            }
        }
    }

    /// Waits until he has gone; nothing that he says is heard any more.
    pub(crate) async fn end(mut self) {
        while self.next().await.is_some() {}
    }
}

impl Says {
    /// Returns when there is room for it: he may be slow.
    ///
    /// # Errors
    /// [`Left`]
    pub async fn say(&self, output: Output) -> Result<(), Left> {
        self.message(relay_up::Message::Output(output.into())).await
    }

    /// As [`Self::say`], of what is no conversation.
    ///
    /// # Errors
    /// [`Left`]
    pub async fn message(&self, message: relay_up::Message) -> Result<(), Left> {
        let message = Some(message);
        self.0.send(RelayUp { message }).await.map_err(|_| Left)
    }

    /// Returns when he has gone.
    pub async fn left(&self) {
        self.0.closed().await;
    }
}

//! A conversation with something in a sandbox. Until it has begun, another replica is asked where one fails; from then
//! on it is the only one, and its end is an error.

use super::fault::{Verdict, judge, text};
use super::retry::Route;
use super::{Client, ClientError};
use proto::relay::{Input, Output};
use proto::wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Messages that wait for the connection: a slow one makes the input wait, not the memory grow.
const AHEAD: usize = 2;

/// Both directions, which can be used at one time.
pub struct Conversation {
    pub says: Says,
    pub hears: Hears,
}

/// The user's side. Clones speak into the same stream.
#[derive(Clone)]
pub struct Says(mpsc::Sender<wire::RelayInput>);

/// The sandbox's side. Dropped, whatever was begun there ends.
pub struct Hears {
    act: String,
    stream: Streaming<wire::RelayOutput>,
}

impl Client {
    /// Begins to speak with what is asked for; `act` says what a user does, for errors.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was done then.
    pub async fn converse(
        &self,
        act: &str,
        request: wire::RelayRequest,
    ) -> Result<Conversation, ClientError> {
        let (says, stream) = self
            .call(act, Route::Agent, |mut c| {
                let (says, said) = mpsc::channel(AHEAD);
                // There is room for it.
                says.try_send(Input::Open(request.clone()).into()).ok();
                async move {
                    let answer = c.relay(ReceiverStream::new(said)).await?;
                    Ok(answer.map(|stream| (says, stream)))
                }
            })
            .await?;
        let says = Says(says);
        says.say(Input::Begin(wire::RelayBegin {})).await;
        let act = act.to_owned();
        Ok(Conversation {
            says,
            hears: Hears { act, stream },
        })
    }
}

impl Says {
    /// Returns when there is room for it. That nobody takes it is told by the other side. Cancel safe: it is said whole
    /// or not at all.
    pub async fn say(&self, input: Input) {
        self.0.send(input.into()).await.ok();
    }
}

impl Hears {
    /// What is said where it has ended without an end.
    #[must_use]
    pub fn cut_short(&self) -> String {
        format!("{}: it ended without telling how", self.act)
    }

    /// What comes next; `None`: nothing more does. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Refused`] where the sandbox's node does not do it, [`ClientError::Broken`] where the way to it
    /// is gone.
    pub async fn next(&mut self) -> Result<Option<Output>, ClientError> {
        loop {
            match self.stream.message().await {
                // Without one it is of a newer version.
                Ok(Some(message)) => {
                    if let Some(output) = message.output {
                        return Ok(Some(output));
                    }
                }
                Ok(None) => return Ok(None),
                Err(status) if matches!(judge(&status), Verdict::Final | Verdict::Untrusted(_)) => {
                    return Err(ClientError::refused(&self.act, &status));
                }
                Err(status) => {
                    return Err(ClientError::Broken {
                        act: self.act.clone(),
                        why: text(&status),
                    });
                }
            }
        }
    }
}

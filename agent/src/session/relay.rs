//! Streams that the leader asks for on behalf of users. The agent opens them, since nothing dials an agent; each ends
//! when all was said, when its user has left, or with the session. Owns how many there are; what is said is `relay`'s.

use crate::relay::{self, Sandboxes, Talk};
use proto::wire;
use proto::wire::agent_client::AgentClient;
use proto::wire::relay_up::Message as Up;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Of all users together. Each holds a few buffers and files.
pub(super) const MAX_OPEN: usize = 256;
/// Of one sandbox, so that no user of one takes the streams of all.
const MAX_PER_SANDBOX: usize = 64;
/// Messages under way to a user; a slow one makes the reading wait, not the memory grow.
const AHEAD: usize = 2;

/// All relays of one session. They end when it is dropped.
pub(super) struct Relays {
    client: AgentClient<Channel>,
    tasks: JoinSet<()>,
    open: Open,
}

/// How many are open, by sandbox.
type Open = Arc<Mutex<BTreeMap<String, usize>>>;

/// Counts one relay while it lives.
struct Place {
    open: Open,
    sandbox: String,
}

impl Relays {
    pub(super) fn new(client: AgentClient<Channel>) -> Self {
        Self {
            client,
            tasks: JoinSet::new(),
            open: Open::default(),
        }
    }

    /// Opens one, unless there are too many, of which the leader is to be told.
    pub(super) fn open(
        &mut self,
        open: wire::OpenRelay,
        sandboxes: &Sandboxes,
    ) -> Option<wire::RelayRefused> {
        let sandbox = relay::sandbox_of(open.what.as_ref());
        let refused = |why| {
            tracing::warn!(relay = open.relay_id, why, "no relay");
            Some(wire::RelayRefused {
                relay_id: open.relay_id.clone(),
                why,
            })
        };
        if self.tasks.len() >= MAX_OPEN {
            return refused(format!("it serves {MAX_OPEN} streams already"));
        }
        let Some(place) = Place::take(&self.open, sandbox) else {
            return refused(format!(
                "it serves {MAX_PER_SANDBOX} streams of sandbox {sandbox} already"
            ));
        };
        let run = run(open, self.client.clone(), sandboxes.clone());
        self.tasks.spawn(async move {
            run.await;
            drop(place);
        });
        None
    }

    /// Returns when one has ended; for ever where none is open.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending().await
        }
    }
}

impl Place {
    fn take(open: &Open, sandbox: &str) -> Option<Self> {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(sandbox.to_owned()).or_default();
        (*count < MAX_PER_SANDBOX).then(|| {
            *count += 1;
            Self {
                open: open.clone(),
                sandbox: sandbox.to_owned(),
            }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.sandbox) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.sandbox);
            }
        }
    }
}

/// Serves one to its end.
async fn run(open: wire::OpenRelay, mut client: AgentClient<Channel>, sandboxes: Sandboxes) {
    let (up, messages) = mpsc::channel(AHEAD);
    let id = wire::RelayUp {
        message: Some(Up::RelayId(open.relay_id.clone())),
    };
    // There is room for it.
    up.try_send(id).ok();
    let down = match client.relay(ReceiverStream::new(messages)).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            tracing::debug!(relay = open.relay_id, %status, "nobody waits for this relay");
            return;
        }
    };
    let mut talk = Talk::new(down, up);
    // He may leave while nothing is heard of him or said to him.
    let says = talk.says.clone();
    let served = tokio::select! {
        served = relay::serve(open.what, &mut talk, &sandboxes) => served,
        () = says.left() => {
            tracing::debug!(relay = open.relay_id, "its user has left");
            return;
        }
    };
    if let Err(error) = served {
        says.message(Up::Error(error.to_string())).await.ok();
    }
    let Talk { hears, says: others } = talk;
    drop((says, others));
    // What was said last is under way still; the stream's end would take it along.
    hears.end().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_one_sandbox_are_bounded_and_free_again() {
        let open = Open::default();
        let mut places: Vec<_> = (0..MAX_PER_SANDBOX)
            .map(|_| Place::take(&open, "a").expect("a place"))
            .collect();
        assert!(Place::take(&open, "a").is_none());
        let other = Place::take(&open, "b").expect("another sandbox has its own");
        places.pop();
        assert!(Place::take(&open, "a").is_some());
        drop((places, other));
        assert!(open.lock().expect("not poisoned").is_empty());
    }
}

//! The present state of what matches, one marker, then every change; for as long as the reader keeps up.

use super::read::Found;
use super::{Api, Fault, Query};
use crate::raft::ChangeSet;
use crate::state::Change;
use proto::wire::{self, watch_event::Type};
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;

/// Events that wait for a slow connection, beside the changes that wait in the state's own channel.
const BUFFER: usize = 64;
/// Present objects turned into messages at a time: a watch of 100,000 never holds them all twice.
const CHUNK: usize = 256;

/// What a watch tells; the last item says why it ended.
pub(super) type Events = mpsc::Receiver<Result<wire::WatchEvent, Fault>>;

struct Watch {
    api: Api,
    query: Query,
    events: mpsc::Sender<Result<wire::WatchEvent, Fault>>,
}

/// The reader has gone.
struct Unread;

impl Api {
    /// Begins a watch. Of the present state only what changed after the index `since` is told; what was deleted
    /// between is not.
    ///
    /// # Errors
    /// [`Fault::Read`] where this replica can't know that its state is the present one.
    pub async fn watch(&self, query: Query, since: u64) -> Result<Events, Fault> {
        self.replica.linearize().await?;
        let ((mut present, index), changes) = self
            .replica
            .replicated()
            .subscribe_with(|state| (query.find(state), state.index()));
        present.retain(|object| object.resource_version() > since);
        let (events, told) = mpsc::channel(BUFFER);
        let watch = Watch {
            api: self.clone(),
            query,
            events,
        };
        tokio::spawn(watch.run(present, index, changes));
        Ok(told)
    }
}

impl Watch {
    async fn run(self, present: Vec<Found>, index: u64, changes: broadcast::Receiver<Arc<ChangeSet>>) {
        let stopping = self.api.stopping.clone();
        let ended = tokio::select! {
            ended = self.tell(present, index, changes) => ended,
            () = stopping.cancelled() => Ok(Fault::Stopping),
            () = self.events.closed() => Err(Unread),
        };
        if let Ok(fault) = ended {
            // Waits for room: the reader must learn that there is no more, and it may be slow.
            self.events.send(Err(fault)).await.ok();
        }
    }

    async fn tell(
        &self,
        present: Vec<Found>,
        index: u64,
        mut changes: broadcast::Receiver<Arc<ChangeSet>>,
    ) -> Result<Fault, Unread> {
        for chunk in present.chunks(CHUNK) {
            for object in self.api.show(chunk) {
                self.send(Type::Changed, Some(object), index).await?;
            }
        }
        drop(present);
        self.send(Type::Synced, None, index).await?;
        loop {
            let set = match changes.recv().await {
                Ok(set) if set.reset => return Ok(Fault::Reset),
                Ok(set) => set,
                Err(RecvError::Lagged(_)) => return Ok(Fault::Behind),
                Err(RecvError::Closed) => return Ok(Fault::Stopping),
            };
            for change in &set.changes {
                if let Some((kind, object)) = event(&self.query, change) {
                    let object = self.api.show(&[object]).pop();
                    self.send(kind, object, set.index).await?;
                }
            }
        }
    }

    async fn send(&self, kind: Type, object: Option<wire::Object>, index: u64) -> Result<(), Unread> {
        let event = wire::WatchEvent {
            r#type: kind.into(),
            object,
            index,
        };
        self.events.send(Ok(event)).await.map_err(|_| Unread)
    }
}

/// What a change is to those who asked for `query`. An object that ceases to match is gone, as it was last.
fn event(query: &Query, change: &Change) -> Option<(Type, Found)> {
    let (before, after) = match change {
        // Its id stands for another one already.
        Change::Sandbox { replaced: true, .. } => return None,
        Change::Sandbox { before, after, .. } => (
            before.clone().map(Found::Sandbox),
            after.clone().map(Found::Sandbox),
        ),
        Change::Node { before, after } => (before.clone().map(Found::Node), after.clone().map(Found::Node)),
        Change::External { before, after } => (
            before.clone().map(Found::External),
            after.clone().map(Found::External),
        ),
    };
    let matching = |object: Option<Found>| object.filter(|object| query.matches(object));
    match (matching(before), matching(after)) {
        (_, Some(after)) => Some((Type::Changed, after)),
        (Some(before), None) => Some((Type::Deleted, before)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sample::sandbox;
    use proto::object::{Kind, Sandbox};
    use proto::spec::Labels;
    use proto::status::Phase;

    fn labelled(team: &str) -> Sandbox {
        let mut sandbox = sandbox("s", 1, Phase::Pending, None);
        sandbox.labels = Labels::from([("team".to_owned(), team.to_owned())]);
        sandbox
    }

    #[track_caller]
    fn check(before: Option<&str>, after: Option<&str>, replaced: bool, expected: Option<Type>) {
        let query = Query {
            labels: Labels::from([("team".to_owned(), "a".to_owned())]),
            ..Query::all(Kind::Sandbox)
        };
        let change = Change::Sandbox {
            before: before.map(|team| Arc::new(labelled(team))),
            after: after.map(|team| Arc::new(labelled(team))),
            replaced,
        };
        let told = event(&query, &change).map(|(kind, _)| kind);
        assert_eq!(told, expected, "{before:?} to {after:?}, replaced: {replaced}");
    }

    #[test]
    fn object_that_ceases_to_match_is_told_as_deleted() {
        check(None, Some("a"), false, Some(Type::Changed));
        check(Some("a"), Some("a"), false, Some(Type::Changed));
        check(Some("b"), Some("a"), false, Some(Type::Changed));
        check(Some("a"), Some("b"), false, Some(Type::Deleted));
        check(Some("a"), None, false, Some(Type::Deleted));
        check(Some("b"), None, false, None);
        check(None, Some("b"), false, None);
        check(Some("a"), None, true, None);
    }
}

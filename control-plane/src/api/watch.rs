//! The present state of what matches, one marker, then every change; or every change since an index. For as long as
//! the reader keeps up: a watch owns a place among the kept changes and a few events, never a queue that grows.

use super::read::Found;
use super::{Api, Fault, Query};
use crate::access::{Caller, Hold};
use crate::raft::{ChangeSet, Subscription};
use crate::state::Change;
use futures::Stream;
use prost::Message;
use proto::wire::{self, watch_event::Type};
use std::fmt;
use std::num::ParseIntError;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, timeout};

/// Events that wait for a slow connection, and what they may take; one larger event goes alone.
const BUFFER: usize = 64;
const BUFFER_BYTES: u32 = 1 << 20;
/// Present objects turned into messages at a time: a watch of 100,000 never holds them all twice.
const CHUNK: usize = 256;
/// Watches of one replica. Each may hold [`BUFFER_BYTES`], and at its begin what it has to tell.
pub(super) const MAX_WATCHES: usize = 4_096;
/// A reader who takes no event for this long holds what he has asked for no longer.
const UNREAD: Duration = Duration::from_secs(30);
/// How often a watch that has nothing to tell says how far it is, if that has changed. Often enough that changes of
/// others don't carry its index out of what is kept.
const PROGRESS: Duration = Duration::from_secs(2);

/// How far a watch is, and from where it goes on at any replica: the log is the same everywhere, and what an entry changes
/// is, in the same order. `index` in text, or `index.behind`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// All that entries up to this one changed was told; 0: nothing.
    pub index: u64,
    /// And so many changes of the next entry that has any for this watch.
    pub behind: u32,
}

type Event = Result<wire::WatchEvent, Fault>;

/// What a watch tells; the last item says why it ended.
pub struct Events(mpsc::Receiver<(Event, Option<OwnedSemaphorePermit>)>);

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        // With its share of the buffer.
        self.0.poll_recv(context).map(|next| next.map(|(event, _)| event))
    }
}

struct Watch {
    api: Api,
    queries: Vec<Query>,
    events: mpsc::Sender<(Event, Option<OwnedSemaphorePermit>)>,
    room: Arc<Semaphore>,
    told: Mark,
    hold: Hold,
    _permit: OwnedSemaphorePermit,
}

/// Why a watch ends.
enum End {
    /// To be told to the reader.
    Fault(Fault),
    /// The reader has gone.
    Gone,
}

impl Api {
    /// Begins a watch of all that matches one of `queries`: with the present state, or with what follows `since`, if that
    /// is not the default.
    ///
    /// # Errors
    /// [`Fault::TooOld`]; [`Fault::Watches`]; [`Fault::Read`] where this replica can't know that its state is the
    /// present one. [`Fault::Denied`] ends it once the caller's token is good no more.
    pub async fn watch(&self, caller: &Caller, queries: Vec<Query>, since: Mark) -> Result<Events, Fault> {
        let permit = self.watches.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Fault::Watches(MAX_WATCHES))?;
        self.replica.linearize().await?;
        let replicated = self.replica.replicated();
        let (present, changes) = if since.index == 0 {
            replicated.subscribe_with(|state| queries.iter().flat_map(|query| query.find(state)).collect())
        } else {
            (Vec::new(), replicated.changes_after(since.index)?)
        };
        // The present ends here: what follows is news.
        let index = replicated.read().index();
        let (events, told) = mpsc::channel(BUFFER);
        let watch = Watch {
            api: self.clone(),
            queries,
            events,
            room: Arc::new(Semaphore::new(BUFFER_BYTES as usize)),
            told: since,
            hold: self.holds.of(caller),
            _permit: permit,
        };
        tokio::spawn(watch.run(present, index, changes));
        Ok(Events(told))
    }
}

impl Watch {
    async fn run(mut self, present: Vec<Found>, index: u64, changes: Subscription) {
        let (stopping, events) = (self.api.stopping.clone(), self.events.clone());
        let hold = self.hold.clone();
        let end = tokio::select! {
            Err(end) = self.tell(present, index, changes) => end,
            () = stopping.cancelled() => End::Fault(Fault::Stopping),
            denied = hold.over() => End::Fault(denied.into()),
            () = events.closed() => End::Gone,
        };
        match end {
            // Waits for room: the reader should learn that there is no more, but he may never read again.
            End::Fault(fault) => drop(events.send_timeout((Err(fault), None), UNREAD).await),
            End::Gone => {}
        }
    }

    /// Until something ends it.
    async fn tell(
        &mut self,
        present: Vec<Found>,
        index: u64,
        mut changes: Subscription,
    ) -> Result<std::convert::Infallible, End> {
        for chunk in present.chunks(CHUNK) {
            for object in self.api.show(chunk, false) {
                self.send(Type::Changed, Some(object)).await?;
            }
        }
        drop(present);
        if self.told.index == 0 {
            self.told = Mark::at(changes.position());
        }
        while changes.position() < index {
            match changes.try_recv() {
                Ok(Some(set)) => drop(self.tell_set(&set).await?),
                Ok(None) => break,
                Err(too_old) => return Err(End::Fault(too_old.into())),
            }
        }
        if self.told.behind == 0 {
            self.told = Mark::at(changes.position());
        }
        self.send(Type::Synced, None).await?;
        let mut progress = tokio::time::interval(PROGRESS);
        progress.reset();
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_event = self.told;
        loop {
            tokio::select! {
                set = changes.recv() => match set {
                    Ok(set) => {
                        if self.tell_set(&set).await? {
                            last_event = self.told;
                            progress.reset();
                        }
                    }
                    Err(too_old) => return Err(End::Fault(too_old.into())),
                },
                _ = progress.tick() => if self.told != last_event {
                    last_event = self.told;
                    self.send(Type::Progress, None).await?;
                },
            }
        }
    }

    /// What an entry of the log changed, but for what was told of it before; whether any of it matches.
    async fn tell_set(&mut self, set: &ChangeSet) -> Result<bool, End> {
        let events = set.changes.iter().filter_map(|change| self.event(change));
        let events: Vec<(Type, Found)> = events.collect();
        let count = events.len();
        if count == 0 {
            // What is behind the index is of an entry that matches.
            self.told.index = set.index;
            return Ok(false);
        }
        let already = usize::try_from(self.told.behind).unwrap_or(usize::MAX);
        for (number, (kind, object)) in events.into_iter().enumerate().skip(already) {
            if number + 1 == count {
                self.told = Mark::at(set.index);
            } else {
                self.told.behind = u32::try_from(number + 1).unwrap_or(u32::MAX);
            }
            let object = self.api.show(&[object], false).pop();
            self.send(kind, object).await?;
        }
        self.told = Mark::at(set.index);
        Ok(true)
    }

    /// What a change is to the reader.
    fn event(&self, change: &Change) -> Option<(Type, Found)> {
        self.queries.iter().find_map(|query| event(query, change))
    }

    async fn send(&self, kind: Type, object: Option<wire::Object>) -> Result<(), End> {
        let event = wire::WatchEvent {
            r#type: kind.into(),
            object,
            index: self.told.index,
            behind: self.told.behind,
        };
        let bytes = u32::try_from(event.encoded_len()).unwrap_or(BUFFER_BYTES);
        let room = self.room.clone().acquire_many_owned(bytes.min(BUFFER_BYTES));
        let sent = async {
            let room = room.await.ok();
            self.events.send((Ok(event), room)).await
        };
        match timeout(UNREAD, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Fault(Fault::Unread(UNREAD))),
        }
    }
}

impl Mark {
    /// Behind all that an entry changed.
    #[must_use]
    pub fn at(index: u64) -> Self {
        Self { index, behind: 0 }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.behind {
            0 => write!(f, "{}", self.index),
            behind => write!(f, "{}.{behind}", self.index),
        }
    }
}

impl FromStr for Mark {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (index, behind) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Self {
            index: index.parse()?,
            behind: behind.parse()?,
        })
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
    fn mark_is_read_as_it_is_written() {
        for (text, mark) in [
            ("0", Mark::default()),
            ("7", Mark::at(7)),
            ("7.2", Mark { index: 7, behind: 2 }),
        ] {
            assert_eq!((mark.to_string().as_str(), text.parse()), (text, Ok(mark)));
        }
        for wrong in ["", "x", "7.", "7.x", "-1", "7.2.1"] {
            wrong.parse::<Mark>().expect_err("it is none");
        }
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

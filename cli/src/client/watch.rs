//! A stream of changes that outlives the replica it comes from: after a break it goes on elsewhere, behind the last
//! change that was told. Where the changes between are not kept any more, what was missed is made up from the present
//! state. A replica that is silent because it is cut off is found out and left as well.

use super::fault::{Verdict, judge, text};
use super::retry::{Patience, Route, SILENCE};
use super::{Client, ClientError};
use proto::wire::{self, object::Object, watch_event::Type};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tonic::{Code, Streaming};

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// There at the start, created, or changed.
    Changed(wire::Object),
    /// Gone; as it was last.
    Deleted(wire::Object),
    /// All that was there at the start has been told. Once.
    Synced,
}

pub struct Watch<'a> {
    client: &'a Client,
    /// What the next stream is asked for: what the caller wants, from where this one is.
    request: wire::WatchRequest,
    stream: Option<Streaming<wire::WatchEvent>>,
    /// Where the stream comes from.
    reader: usize,
    /// What the caller knows of, by id.
    known: BTreeMap<String, wire::Object>,
    /// Ids that the present stream has told of before its marker; `None` after it.
    told: Option<BTreeSet<String>>,
    synced: bool,
    pending: VecDeque<Change>,
    patience: Patience,
}

impl<'a> Watch<'a> {
    pub(super) fn new(client: &'a Client, request: wire::WatchRequest) -> Self {
        Self {
            client,
            request,
            stream: None,
            reader: 0,
            known: BTreeMap::new(),
            told: None,
            synced: false,
            pending: VecDeque::new(),
            patience: Patience::new(client),
        }
    }

    /// The next change; waits for it without end. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError`] where no replica could be reached for as long as a request may take.
    pub async fn next(&mut self) -> Result<Change, ClientError> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            let Ok(message) = tokio::time::timeout(SILENCE, stream.message()).await else {
                if self.is_cut_off().await {
                    self.stream = None;
                }
                continue;
            };
            let why = match message {
                Ok(Some(event)) => {
                    self.patience.progress();
                    self.take(event);
                    continue;
                }
                Ok(None) => "the replica ended the stream".to_owned(),
                Err(status) if status.code() == Code::OutOfRange => {
                    self.begin_again();
                    text(&status)
                }
                Err(status) if matches!(judge(&status), Verdict::Final | Verdict::Untrusted(_)) => {
                    return Err(ClientError::refused("watch", &status));
                }
                Err(status) => text(&status),
            };
            tracing::debug!(why, "watch broken, opening it again");
            self.stream = None;
            self.patience.broken("watch", &why).await?;
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        let request = &self.request;
        let opened = self
            .client
            .call("watch", Route::Any, |mut c| {
                let request = request.clone();
                async move { c.watch(request).await }
            })
            .await;
        let stream = match opened {
            Err(error) if error.code() == Some(Code::OutOfRange) && request.since_index > 0 => {
                tracing::debug!(%error, "the present state is read instead");
                self.begin_again();
                return Ok(());
            }
            opened => opened?,
        };
        self.stream = Some(stream);
        self.reader = self.client.reader();
        self.told = (self.request.since_index == 0).then(BTreeSet::new);
        Ok(())
    }

    /// The next stream begins with the present state.
    fn begin_again(&mut self) {
        self.request.since_index = 0;
        self.request.since_behind = 0;
    }

    /// A linearizable read begins with the replica that the stream comes from: that it ended elsewhere says
    /// that this one could not answer. Where none can, the present one is as good as any.
    async fn is_cut_off(&self) -> bool {
        self.client.cluster(false).await.is_ok() && self.client.reader() != self.reader
    }

    fn take(&mut self, event: wire::WatchEvent) {
        let mark = (event.index, event.behind);
        match event.r#type() {
            Type::Changed => {
                let Some(object) = event.object else { return };
                let Some((id, version)) = identity(&object) else {
                    return;
                };
                if let Some(told) = &mut self.told {
                    told.insert(id.clone());
                }
                let repeated = self.told.is_some()
                    && self
                        .known
                        .get(&id)
                        .and_then(identity)
                        .is_some_and(|(_, v)| v == version);
                self.known.insert(id, object.clone());
                if !repeated {
                    self.pending.push_back(Change::Changed(object));
                }
            }
            Type::Deleted => {
                let Some(object) = event.object else { return };
                let Some((id, _)) = identity(&object) else { return };
                self.known.remove(&id);
                self.pending.push_back(Change::Deleted(object));
            }
            Type::Synced => {
                if let Some(told) = self.told.take() {
                    let known = std::mem::take(&mut self.known);
                    let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
                        known.into_iter().partition(|(id, _)| told.contains(id));
                    self.known = kept;
                    self.pending.extend(gone.into_values().map(Change::Deleted));
                }
                if !self.synced {
                    self.synced = true;
                    self.pending.push_back(Change::Synced);
                }
            }
            Type::Progress | Type::Unspecified => {}
        }
        // While the present state is being told there is nothing to go on from.
        if self.told.is_none() {
            (self.request.since_index, self.request.since_behind) = mark;
        }
    }
}

/// Id, and which version of it.
fn identity(object: &wire::Object) -> Option<(String, u64)> {
    match object.object.as_ref()? {
        Object::Sandbox(s) => Some((s.id.clone(), s.resource_version)),
        Object::Node(n) => Some((n.id.clone(), n.resource_version)),
        Object::External(e) => Some((e.id.clone(), e.resource_version)),
    }
}

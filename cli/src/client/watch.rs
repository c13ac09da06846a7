//! A stream of changes that outlives the replica it comes from: after a break it is opened elsewhere, and what
//! was missed is made up from the state that the new one begins with. A replica that is silent because it is cut
//! off is found out and left as well.

use super::fault::{Verdict, judge, text};
use super::retry::{Patience, Route, SILENCE};
use super::{Client, ClientError};
use proto::wire::{self, object::Object, watch_event::Type};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tonic::Streaming;

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
        let stream = self
            .client
            .call("watch", Route::Any, |mut c| {
                let request = request.clone();
                async move { c.watch(request).await }
            })
            .await?;
        self.stream = Some(stream);
        self.reader = self.client.reader();
        self.told = Some(BTreeSet::new());
        Ok(())
    }

    /// A linearizable read begins with the replica that the stream comes from: that it ended elsewhere says
    /// that this one could not answer. Where none can, the present one is as good as any.
    async fn is_cut_off(&self) -> bool {
        self.client.cluster(false).await.is_ok() && self.client.reader() != self.reader
    }

    fn take(&mut self, event: wire::WatchEvent) {
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
                let told = self.told.take().unwrap_or_default();
                let known = std::mem::take(&mut self.known);
                let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    known.into_iter().partition(|(id, _)| told.contains(id));
                self.known = kept;
                self.pending.extend(gone.into_values().map(Change::Deleted));
                if !self.synced {
                    self.synced = true;
                    self.pending.push_back(Change::Synced);
                }
            }
            Type::Unspecified => {}
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

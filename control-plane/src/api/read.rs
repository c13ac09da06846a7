//! Objects as they are shown: found under a short lock, turned into messages outside of it, and completed with what
//! is not stored: public names, what is used of nodes, heartbeats.

use super::{Api, Fault};
use crate::state::State;
use proto::event::Event;
use proto::id::{NodeId, SandboxId};
use proto::object::{External, Kind, Node, Sandbox};
use proto::spec::Labels;
use proto::status::Phase;
use proto::wire::{self, object::Object};
use std::sync::Arc;

/// Which objects are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub kind: Kind,
    /// `None`: all of the kind.
    pub id: Option<String>,
    /// All must match.
    pub labels: Labels,
    /// Of sandboxes.
    pub phase: Option<Phase>,
    /// Of sandboxes: where they are.
    pub node: Option<NodeId>,
    /// Shown with what has happened to them.
    pub events: bool,
}

/// Part of a list.
#[derive(Debug)]
pub struct Page {
    pub objects: Vec<wire::Object>,
    /// After which the list goes on; `None`: here it ends.
    pub next: Option<String>,
    /// Of the log, as the page shows it.
    pub index: u64,
}

/// One object of any kind, shared with the state.
#[derive(Debug, Clone)]
pub(super) enum Found {
    Sandbox(Arc<Sandbox>),
    Node(Arc<Node>),
    External(Arc<External>),
}

/// How a kind is called in messages for people.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sandbox => "sandbox",
        Kind::Node => "node",
        Kind::External => "external",
    }
}

impl Query {
    #[must_use]
    pub fn all(kind: Kind) -> Self {
        Self {
            kind,
            id: None,
            labels: Labels::new(),
            phase: None,
            node: None,
            events: false,
        }
    }

    #[must_use]
    pub fn one(kind: Kind, id: impl Into<String>) -> Self {
        Self {
            id: Some(id.into()),
            ..Self::all(kind)
        }
    }

    pub(super) fn matches(&self, object: &Found) -> bool {
        let label = |key: &str| match object {
            Found::Sandbox(s) => s.labels.get(key).map(String::as_str),
            Found::Node(n) => n.effective_label(key),
            Found::External(e) => e.labels.get(key).map(String::as_str),
        };
        let in_phase = |wanted| match object {
            Found::Sandbox(s) => s.status.phase == wanted,
            Found::Node(_) | Found::External(_) => false,
        };
        let is_on = |node: &NodeId| match object {
            Found::Sandbox(s) => s.status.node_name.as_ref() == Some(node),
            Found::Node(_) | Found::External(_) => false,
        };
        self.kind == object.kind()
            && self.id.as_ref().is_none_or(|id| id == object.id())
            && self.labels.iter().all(|(key, value)| label(key) == Some(value))
            && self.phase.is_none_or(in_phase)
            && self.node.as_ref().is_none_or(is_on)
    }

    /// All that match, by id.
    pub(super) fn find(&self, state: &State) -> Vec<Found> {
        self.find_after(state, None, usize::MAX)
    }

    /// Those that match and follow the id `after`, by id; at most `limit`.
    fn find_after(&self, state: &State, after: Option<&SandboxId>, limit: usize) -> Vec<Found> {
        let text = after.map(SandboxId::as_str);
        let one = |found: Option<Found>| {
            let found = found.filter(|f| text.is_none_or(|after| f.id() > after));
            self.among(found.into_iter(), limit)
        };
        match (&self.id, self.kind) {
            (Some(id), Kind::Sandbox) => one(id
                .parse()
                .ok()
                .and_then(|id| state.sandbox(&id).cloned())
                .map(Found::Sandbox)),
            (Some(id), Kind::Node) => one(id
                .parse()
                .ok()
                .and_then(|id| state.node(&id).cloned())
                .map(Found::Node)),
            (Some(id), Kind::External) => one(id
                .parse()
                .ok()
                .and_then(|id| state.external(&id).cloned())
                .map(Found::External)),
            (None, Kind::Sandbox) => {
                self.among(state.sandboxes_after(after).cloned().map(Found::Sandbox), limit)
            }
            (None, Kind::Node) => self.among(state.nodes_after(text).cloned().map(Found::Node), limit),
            (None, Kind::External) => {
                self.among(state.externals_after(text).cloned().map(Found::External), limit)
            }
        }
    }

    fn among(&self, objects: impl Iterator<Item = Found>, limit: usize) -> Vec<Found> {
        objects
            .filter(|object| self.matches(object))
            .take(limit)
            .collect()
    }
}

impl Found {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Sandbox(_) => Kind::Sandbox,
            Self::Node(_) => Kind::Node,
            Self::External(_) => Kind::External,
        }
    }

    pub(super) fn id(&self) -> &str {
        match self {
            Self::Sandbox(s) => s.id.as_str(),
            Self::Node(n) => n.id.as_str(),
            Self::External(e) => e.id.as_str(),
        }
    }

    fn message(&self, events: bool) -> wire::Object {
        let told = |events: &[Event]| events.iter().map(Into::into).collect();
        let object = match self {
            Self::Sandbox(s) if events => Object::Sandbox(wire::Sandbox {
                events: told(&s.events),
                ..s.as_ref().into()
            }),
            Self::Node(n) if events => Object::Node(wire::Node {
                events: told(&n.events),
                ..n.as_ref().into()
            }),
            Self::Sandbox(s) => Object::Sandbox(s.as_ref().into()),
            Self::Node(n) => Object::Node(n.as_ref().into()),
            Self::External(e) => Object::External(e.as_ref().into()),
        };
        wire::Object { object: Some(object) }
    }
}

impl Api {
    /// One object.
    ///
    /// # Errors
    /// [`Fault::NotFound`]; [`Fault::Read`] unless `stale`.
    pub async fn get(&self, kind: Kind, id: &str, stale: bool) -> Result<wire::Object, Fault> {
        self.look_at(Query::one(kind, id), stale).await
    }

    /// What a query for one object finds.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub async fn look_at(&self, query: Query, stale: bool) -> Result<wire::Object, Fault> {
        let (mut objects, _) = self.list(&query, stale).await?;
        objects.pop().ok_or_else(|| Fault::NotFound {
            kind: kind_name(query.kind),
            id: query.id.unwrap_or_default(),
        })
    }

    /// All that match, by id, and the index of the log that they show.
    ///
    /// # Errors
    /// [`Fault::Read`] unless `stale`.
    pub async fn list(&self, query: &Query, stale: bool) -> Result<(Vec<wire::Object>, u64), Fault> {
        let page = self.page(query, None, usize::MAX, stale).await?;
        Ok((page.objects, page.index))
    }

    /// Those of [`Self::list`] that follow the id `after`, at most `limit`. Costs what the page costs, not the list,
    /// where most objects match.
    ///
    /// # Errors
    /// [`Fault::Read`] unless `stale`.
    pub async fn page(
        &self,
        query: &Query,
        after: Option<&str>,
        limit: usize,
        stale: bool,
    ) -> Result<Page, Fault> {
        // The ids of all kinds have the same form.
        let after = after.map(str::parse::<SandboxId>).transpose();
        let after = after.map_err(|why| {
            Fault::Invalid(format!(
                "cursor: {why}; only what an answer gave as one is a cursor"
            ))
        })?;
        if !stale {
            self.replica.linearize().await?;
        }
        let (mut found, index) = {
            let state = self.replica.replicated().read();
            // One more tells whether there is more.
            (
                query.find_after(&state, after.as_ref(), limit.saturating_add(1)),
                state.index(),
            )
        };
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|object| object.id().to_owned());
        let mut objects = self.show(&found, query.events);
        if !stale {
            self.ask_for_heartbeats(query, after.as_ref(), &mut objects).await;
        }
        Ok(Page { objects, next, index })
    }

    /// Objects as messages, complete.
    pub(super) fn show(&self, found: &[Found], events: bool) -> Vec<wire::Object> {
        let mut objects: Vec<wire::Object> = found.iter().map(|found| found.message(events)).collect();
        self.fill_in(&mut objects);
        objects
    }

    /// Completes objects with what is not stored in them.
    pub(super) fn fill_in(&self, objects: &mut [wire::Object]) {
        let state = self.replica.replicated().read();
        for object in objects {
            match &mut object.object {
                Some(Object::Sandbox(sandbox)) => {
                    if let Some(status) = &mut sandbox.status
                        && let Ok(node) = status.node_name.parse::<NodeId>()
                    {
                        status.external = state.external_of(&node).unwrap_or_default().to_owned();
                    }
                }
                Some(Object::Node(node)) => {
                    if let Ok(id) = node.id.parse::<NodeId>() {
                        node.external = state.external_of(&id).unwrap_or_default().to_owned();
                        node.last_heartbeat_ms = self.liveness.last_heartbeat(&id).map_or(0, |at| at.0);
                        let usage = state.usage(&id);
                        node.usage = Some(wire::NodeUsage {
                            cpu_milli: usage.cpu.0,
                            memory_bytes: usage.memory.0,
                            sandboxes: usage.sandboxes,
                        });
                    }
                }
                Some(Object::External(_)) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sample::sandbox;

    #[track_caller]
    fn check(edit: impl FnOnce(&mut Query), expected: bool) {
        let mut object = sandbox("s", 1, Phase::Running, Some("n"));
        object.labels = Labels::from([
            ("team".to_owned(), "a".to_owned()),
            ("tier".to_owned(), "1".to_owned()),
        ]);
        let mut query = Query::all(Kind::Sandbox);
        edit(&mut query);
        assert_eq!(
            query.matches(&Found::Sandbox(Arc::new(object))),
            expected,
            "{query:?}"
        );
    }

    fn label(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn query_matches_what_has_all_that_it_asks_for() {
        check(|_| {}, true);
        check(|q| q.kind = Kind::Node, false);
        check(|q| q.id = Some("s".to_owned()), true);
        check(|q| q.id = Some("t".to_owned()), false);
        check(|q| q.labels.extend([label("team", "a")]), true);
        check(
            |q| q.labels.extend([label("team", "a"), label("tier", "2")]),
            false,
        );
        check(|q| q.labels.extend([label("other", "")]), false);
        check(|q| q.phase = Some(Phase::Running), true);
        check(|q| q.phase = Some(Phase::Pending), false);
    }
}

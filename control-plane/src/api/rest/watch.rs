//! `/api/v1/watch`: changes as server-sent events.

use super::Rest;
use super::answer::Refusal;
use super::body::{self, Params};
use crate::api::{Fault, Query};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{Stream, StreamExt, select_all};
use proto::document::Document;
use proto::object::Kind;
use proto::wire::{self, watch_event::Type};
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use tokio_stream::wrappers::ReceiverStream;

/// What browsers send when they open a broken stream again: the id of the last event, which is an index of the log.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchParams {
    /// `sandbox`, `node` or `external`; absent: all.
    kind: Option<String>,
    id: Option<String>,
    label: Option<String>,
    /// Of the present state only what changed after this index is told.
    since: Option<u64>,
}

/// `changed`, `deleted` and, once the present state was told, `synced`, of each kind; `error` ends the stream.
pub(super) async fn events(
    State(rest): State<Rest>,
    headers: HeaderMap,
    Params(params): Params<WatchParams>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let labels = body::selector(params.label.as_deref())?;
    let last = headers
        .get(LAST_EVENT_ID)
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let since = last.or(params.since).unwrap_or_default();
    let mut watches = Vec::new();
    for kind in kinds(params.kind.as_deref())? {
        let query = Query {
            id: params.id.clone(),
            labels: labels.clone(),
            ..Query::all(kind)
        };
        let told = ReceiverStream::new(rest.api.watch(query, since).await?);
        watches.push(told.map(move |told| (told.is_err(), event(kind, told))));
    }
    // What ends one of them ends all: their reader begins again with all.
    let until_error = select_all(watches).flat_map(|(last, event)| {
        futures::stream::iter(std::iter::once(Some(event)).chain(last.then_some(None)))
    });
    let events = until_error
        .take_while(|event| std::future::ready(event.is_some()))
        .filter_map(|event| std::future::ready(event.map(Ok)));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn kinds(text: Option<&str>) -> Result<Vec<Kind>, Fault> {
    match text.map(str::to_ascii_lowercase).as_deref() {
        None | Some("") => Ok(vec![Kind::Node, Kind::External, Kind::Sandbox]),
        Some("sandbox" | "sandboxes") => Ok(vec![Kind::Sandbox]),
        Some("node" | "nodes") => Ok(vec![Kind::Node]),
        Some("external" | "externals") => Ok(vec![Kind::External]),
        Some(other) => Err(Fault::Invalid(format!(
            "kind: `{other}` is none of sandbox, node, external"
        ))),
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Sandbox => "sandbox",
        Kind::Node => "node",
        Kind::External => "external",
    }
}

fn event(kind: Kind, told: Result<wire::WatchEvent, Fault>) -> Event {
    let (event, index, data) = match told {
        Err(fault) => return error(&fault),
        Ok(told) => {
            let data = match told.object.clone().map(Document::try_from).transpose() {
                Ok(Some(document)) => json!({ "kind": name(kind), document.key(): document }),
                Ok(None) => json!({ "kind": name(kind) }),
                Err(why) => return error(&why.into()),
            };
            let event = match told.r#type() {
                Type::Changed => "changed",
                Type::Deleted => "deleted",
                Type::Synced | Type::Unspecified => "synced",
            };
            (event, told.index, data)
        }
    };
    Event::default()
        .event(event)
        .id(index.to_string())
        .data(data.to_string())
}

fn error(fault: &Fault) -> Event {
    let data: Value = json!({ "error": fault.to_string() });
    Event::default().event("error").data(data.to_string())
}

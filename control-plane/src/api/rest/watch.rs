//! `/api/v1/watch`: changes as server-sent events.

use super::Rest;
use super::answer::{Refusal, status};
use super::body::{self, Params};
use crate::access::Caller;
use crate::api::{Fault, Mark, Query};
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::stream::{Stream, StreamExt};
use proto::document::Document;
use proto::object::Kind;
use proto::wire::{self, watch_event::Type};
use serde::Deserialize;
use serde_json::json;
use std::convert::Infallible;

/// What browsers send when they open a broken stream again: the id of the last event.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchParams {
    /// `sandbox`, `node` or `external`; absent: all.
    kind: Option<String>,
    id: Option<String>,
    label: Option<String>,
    /// Not the present state, but the changes after this index.
    since: Option<String>,
}

/// `changed`, `deleted`, `progress` and, once the present state was told, `synced`; `error` ends the stream.
pub(super) async fn events(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Params(params): Params<WatchParams>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let labels = body::selector(params.label.as_deref())?;
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let since = last
        .or(params.since.as_deref())
        .map(since)
        .transpose()?
        .unwrap_or_default();
    let kinds = kinds(params.kind.as_deref())?.into_iter();
    let queries = kinds.map(|kind| Query {
        id: params.id.clone(),
        labels: labels.clone(),
        ..Query::all(kind)
    });
    let told = rest.api.watch(&caller, queries.collect(), since).await?;
    let events = told.map(|told| Ok(event(told)));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn since(text: &str) -> Result<Mark, Fault> {
    let wrong = |_| {
        Fault::Invalid(format!(
            "since: `{text}` is no place in the log; write the index of a list or the id of an event"
        ))
    };
    text.parse().map_err(wrong)
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

/// Its id is where a stream that breaks behind it goes on.
fn event(told: Result<wire::WatchEvent, Fault>) -> Event {
    let told = match told {
        Ok(told) => told,
        Err(fault) => return error(&fault),
    };
    let mark = Mark {
        index: told.index,
        behind: told.behind,
    };
    let data = match told.object.clone().map(Document::try_from).transpose() {
        Ok(Some(document)) => json!({ "kind": document.key(), document.key(): document }),
        Ok(None) => json!({ "index": told.index }),
        Err(why) => return error(&why.into()),
    };
    let name = match told.r#type() {
        Type::Changed => "changed",
        Type::Deleted => "deleted",
        Type::Progress => "progress",
        Type::Synced | Type::Unspecified => "synced",
    };
    Event::default()
        .event(name)
        .id(mark.to_string())
        .data(data.to_string())
}

/// `status` is what the same error would be as an answer: 410 for changes that are not kept any more.
fn error(fault: &Fault) -> Event {
    let data = json!({ "error": fault.to_string(), "status": status(fault).as_u16() });
    Event::default().event("error").data(data.to_string())
}

//! What the kinds of objects have in common: lists, single objects, changes, deletion. Called by their routes.

use super::Rest;
use super::answer::Refusal;
use super::body;
use crate::access::Caller;
use crate::api::{Fault, Query, Write};
use axum::Json;
use axum::http::HeaderMap;
use proto::convert::ConvertError;
use proto::document::Document;
use proto::object::Kind;
use proto::status::Phase;
use proto::wire::{self, manifest::Spec, object::Object, rejected::Code as Rejection};
use serde::Deserialize;
use serde_json::{Value, json};

/// Objects in one answer where the client does not say, and at most.
const DEFAULT_PAGE: usize = 1_000;
const LONGEST_PAGE: usize = 10_000;
/// Somebody else changed the object between reading and writing so many times in a row: give up.
const PATCH_ATTEMPTS: usize = 5;

pub(super) type Answer = Result<Json<Value>, Refusal>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    label: Option<String>,
    phase: Option<String>,
    limit: Option<usize>,
    /// The last id of the page before.
    cursor: Option<String>,
    #[serde(default)]
    stale: bool,
    #[serde(default)]
    events: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowParams {
    #[serde(default)]
    pub(super) stale: bool,
    /// With what has happened to it.
    #[serde(default)]
    pub(super) events: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveParams {
    #[serde(default)]
    force: bool,
}

/// `{"items": [...]}`, and where to go on if there is more.
pub(super) async fn page(rest: &Rest, kind: Kind, params: ListParams) -> Answer {
    page_of(rest, Query::all(kind), params).await
}

/// Of what is meant, as far as the parameters don't narrow it.
pub(super) async fn page_of(rest: &Rest, all: Query, params: ListParams) -> Answer {
    let kind = all.kind;
    let phase = match params.phase.as_deref() {
        None | Some("") => None,
        Some(_) if kind != Kind::Sandbox => {
            return Err(Fault::Invalid("phase: only sandboxes have one".to_owned()).into());
        }
        Some(text) => Some(parse_phase(text)?),
    };
    let query = Query {
        labels: body::selector(params.label.as_deref())?,
        phase,
        events: params.events,
        ..all
    };
    let limit = params.limit.unwrap_or(DEFAULT_PAGE).clamp(1, LONGEST_PAGE);
    let page = rest
        .api
        .page(&query, params.cursor.as_deref(), limit, params.stale)
        .await?;
    let items = page.objects.into_iter().map(Document::try_from);
    let items = items.collect::<Result<Vec<_>, _>>().map_err(Fault::from)?;
    let mut answer = json!({ "items": items, "index": page.index });
    if let Some(cursor) = page.next {
        answer["cursor"] = Value::from(cursor);
    }
    Ok(Json(answer))
}

fn parse_phase(text: &str) -> Result<Phase, Fault> {
    let known = Phase::ALL
        .into_iter()
        .find(|phase| phase.to_string().eq_ignore_ascii_case(text));
    known.ok_or_else(|| {
        let names = Phase::ALL.map(|phase| phase.to_string()).join(", ");
        Fault::Invalid(format!("phase: `{text}` is none of {names}"))
    })
}

pub(super) async fn one(rest: &Rest, kind: Kind, id: &str, params: &ShowParams) -> Answer {
    let query = Query {
        events: params.events,
        ..Query::one(kind, id)
    };
    single(Some(rest.api.look_at(query, params.stale).await?))
}

/// `{"<kind>": {...}}`
pub(super) fn single(object: Option<wire::Object>) -> Answer {
    let missing = ConvertError::Missing { field: "object" };
    let document = object
        .ok_or(missing)
        .and_then(Document::try_from)
        .map_err(Fault::from)?;
    Ok(Json(json!({ document.key(): document })))
}

/// Creates or changes what the body describes.
pub(super) async fn apply(
    rest: &Rest,
    caller: &Caller,
    kind: Kind,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Answer {
    let manifest = body::manifest(kind, bytes)?;
    let accepted = rest
        .api
        .apply(caller, body::request_id(headers), manifest, Write::Apply)
        .await?;
    single(accepted.object)
}

/// `{"deleted": "<id>"}`
pub(super) async fn delete(
    rest: &Rest,
    caller: &Caller,
    kind: Kind,
    id: String,
    headers: &HeaderMap,
    params: &RemoveParams,
) -> Answer {
    rest.api
        .delete(caller, body::request_id(headers), kind, id.clone(), params.force)
        .await?;
    Ok(Json(json!({ "deleted": id })))
}

/// Reads, edits, writes; again where somebody else wrote meanwhile, unless it must be a certain version.
pub(super) async fn change_object(
    rest: &Rest,
    caller: &Caller,
    kind: Kind,
    id: &str,
    headers: &HeaderMap,
    expected: Option<u64>,
    edit: impl Fn(&mut wire::Manifest),
) -> Answer {
    let mut attempt = 1;
    loop {
        let (mut manifest, version) = wishes(rest.api.get(kind, id, false).await?)?;
        edit(&mut manifest);
        let write = Write::Expecting(expected.unwrap_or(version));
        // Asked again by itself, a change is one of what is there then.
        let request_id = match expected {
            Some(_) => body::request_id(headers),
            None => body::new_request_id(),
        };
        match rest.api.apply(caller, request_id, manifest, write).await {
            Ok(accepted) => return single(accepted.object),
            Err(Fault::Rejected(rejected))
                if rejected.code() == Rejection::Stale && expected.is_none() && attempt < PATCH_ATTEMPTS =>
            {
                attempt += 1;
            }
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// An object's manifest, and its version.
fn wishes(object: wire::Object) -> Result<(wire::Manifest, u64), Fault> {
    let missing = |field| ConvertError::Missing { field };
    let (id, labels, spec, version) = match object.object.ok_or(missing("object"))? {
        Object::Sandbox(s) => (s.id, s.labels, s.spec.map(Spec::Sandbox), s.resource_version),
        Object::Node(n) => (n.id, n.labels, n.spec.map(Spec::Node), n.resource_version),
        Object::External(e) => {
            let spec = wire::ExternalSpec {
                node_id: e.node_id,
                external: e.external,
            };
            (e.id, e.labels, Some(Spec::External(spec)), e.resource_version)
        }
    };
    Ok((wire::Manifest { id, labels, spec }, version))
}

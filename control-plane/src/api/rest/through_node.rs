//! `/api/v1/nodes/{id}/...`: what is asked of one node, and the sandboxes that are there. 502 where its agent can't be
//! reached.

use super::answer::Refusal;
use super::body::{self, Params};
use super::logs::{self, LogsParams};
use super::objects::{Answer, ListParams, RemoveParams, delete, page_of, single};
use super::{Rest, sandboxes};
use crate::access::Caller;
use crate::api::{Fault, Query};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json};
use proto::convert::ConvertError;
use proto::document::Document;
use proto::object::{Kind, Node};
use proto::wire::manifest::Spec;
use serde_json::{Value, json};

/// `{"node", "heartbeat": "ok" | "failed", "resources"}`
pub(super) async fn heartbeat(State(rest): State<Rest>, Path(node): Path<String>) -> Answer {
    let (object, heard) = rest.api.ask_for_heartbeat(&node).await?;
    let Document::Node(document) = Document::try_from(object).map_err(Fault::from)? else {
        return Err(Fault::from(ConvertError::Missing { field: "node" }).into());
    };
    let heartbeat = if heard { "ok" } else { "failed" };
    Ok(Json(
        json!({ "node": node, "heartbeat": heartbeat, "resources": document.resources }),
    ))
}

/// `{"ok": true}`
pub(super) async fn reconcile(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<String>,
) -> Answer {
    rest.api.reconcile_node(&caller, &node).await?;
    Ok(Json(json!({ "ok": true })))
}

pub(super) async fn list(
    State(rest): State<Rest>,
    Path(node): Path<String>,
    Params(params): Params<ListParams>,
) -> Answer {
    let query = Query {
        node: Some(rest.api.reached_node(&node).await?),
        ..Query::all(Kind::Sandbox)
    };
    page_of(&rest, query, params).await
}

/// Creates a sandbox that is placed there, or waits until it can be.
pub(super) async fn create(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let mut manifest = body::manifest(Kind::Sandbox, &bytes)?;
    let node = rest.api.reached_node(&node).await?;
    if let Some(Spec::Sandbox(spec)) = &mut manifest.spec {
        spec.node_selector
            .insert(Node::LABEL.to_owned(), node.to_string());
    }
    sandboxes::create_manifest(&rest, &caller, &headers, manifest).await
}

pub(super) async fn show(State(rest): State<Rest>, Path((node, sandbox)): Path<(String, String)>) -> Answer {
    single(Some(rest.api.sandbox_on(&node, &sandbox).await?))
}

pub(super) async fn remove(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path((node, sandbox)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    rest.api.sandbox_on(&node, &sandbox).await?;
    let params = RemoveParams::default();
    delete(&rest, &caller, Kind::Sandbox, sandbox, &headers, &params).await
}

pub(super) async fn logs(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path((node, sandbox)): Path<(String, String)>,
    Params(params): Params<LogsParams>,
) -> Result<Response, Refusal> {
    rest.api.sandbox_on(&node, &sandbox).await?;
    logs::read_of(&rest, &caller, sandbox, params).await
}

pub(super) async fn container_logs(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path((node, sandbox, container)): Path<(String, String, String)>,
    Params(mut params): Params<LogsParams>,
) -> Result<Response, Refusal> {
    rest.api.sandbox_on(&node, &sandbox).await?;
    params.container = container;
    logs::read_of(&rest, &caller, sandbox, params).await
}

//! `/healthz`, `/readyz`, `/openapi.json`: open to everybody; `/metrics`, for Prometheus with a viewer's token.

use super::Rest;
use super::answer::Refusal;
use crate::metrics::CONTENT_TYPE;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// Written by hand, and held against the routes by a test.
pub(super) const DESCRIPTION: &str = include_str!("openapi.json");

/// This process lives.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// This replica hears a leader, so that it can answer.
pub(super) async fn ready(State(rest): State<Rest>) -> Result<Json<Value>, Refusal> {
    match rest.api.leadership().leader {
        Some(leader) => Ok(Json(json!({ "status": "ready", "leader_id": leader.id }))),
        None => Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "this replica knows no leader: the cluster is not formed yet, it has no quorum, or this replica is cut off from it",
        )),
    }
}

pub(super) async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}

/// Reads files and the whole state: beside the async threads.
pub(super) async fn metrics(State(rest): State<Rest>) -> Result<impl IntoResponse, Refusal> {
    let rendering = tokio::task::spawn_blocking(move || rest.metrics.render());
    match rendering.await {
        Ok(Ok(text)) => Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text)),
        Ok(Err(_)) | Err(_) => Err(Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the figures of this replica can't be put together; its log says why",
        )),
    }
}

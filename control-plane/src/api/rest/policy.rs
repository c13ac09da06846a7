//! `/api/v1/policy`

use super::Rest;
use super::answer::Refusal;
use super::body::{self, Params};
use super::objects::ShowParams;
use crate::access::Caller;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use proto::policy::Policy;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct PolicyAnswer {
    policy: Policy,
}

pub(super) async fn show(
    State(rest): State<Rest>,
    Params(params): Params<ShowParams>,
) -> Result<Json<PolicyAnswer>, Refusal> {
    let policy = rest.api.policy(params.stale).await?;
    Ok(Json(PolicyAnswer { policy }))
}

pub(super) async fn change(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Json<PolicyAnswer>, Refusal> {
    let change = body::json(&bytes)?;
    let request_id = body::request_id(&headers);
    let policy = rest.api.set_policy(&caller, request_id, change).await?;
    Ok(Json(PolicyAnswer { policy }))
}

//! `/api/v1/externals`

use super::Rest;
use super::body::Params;
use super::objects::{self, Answer, ListParams, RemoveParams, ShowParams, delete, one, page};
use crate::access::Caller;
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use proto::object::Kind;

pub(super) async fn apply(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    objects::apply(&rest, &caller, Kind::External, &headers, &bytes).await
}

pub(super) async fn list(State(rest): State<Rest>, Params(params): Params<ListParams>) -> Answer {
    page(&rest, Kind::External, params).await
}

pub(super) async fn show(
    State(rest): State<Rest>,
    Path(id): Path<String>,
    Params(params): Params<ShowParams>,
) -> Answer {
    one(&rest, Kind::External, &id, &params).await
}

pub(super) async fn remove(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answer {
    delete(
        &rest,
        &caller,
        Kind::External,
        id,
        &headers,
        &RemoveParams::default(),
    )
    .await
}

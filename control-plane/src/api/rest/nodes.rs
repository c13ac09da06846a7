//! `/api/v1/nodes`

use super::Rest;
use super::body::{NodePatch, Params, Patch};
use super::objects::{self, Answer, ListParams, RemoveParams, ShowParams, change_object, delete, one, page};
use crate::access::Caller;
use crate::api::Fault;
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use proto::object::Kind;
use proto::wire::manifest::Spec;

pub(super) async fn apply(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    objects::apply(&rest, &caller, Kind::Node, &headers, &bytes).await
}

pub(super) async fn list(State(rest): State<Rest>, Params(params): Params<ListParams>) -> Answer {
    page(&rest, Kind::Node, params).await
}

pub(super) async fn show(
    State(rest): State<Rest>,
    Path(id): Path<String>,
    Params(params): Params<ShowParams>,
) -> Answer {
    one(&rest, Kind::Node, &id, &params).await
}

pub(super) async fn change(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let patch = Patch::<NodePatch>::parse(&bytes)?;
    if patch.ttl_seconds.is_some() {
        return Err(Fault::Invalid("ttl_seconds: nodes have none".to_owned()).into());
    }
    let unschedulable = patch.spec.as_ref().and_then(|spec| spec.unschedulable);
    change_object(
        &rest,
        &caller,
        Kind::Node,
        &id,
        &headers,
        patch.resource_version,
        |manifest| {
            patch.apply_labels(&mut manifest.labels);
            if let (Some(Spec::Node(spec)), Some(unschedulable)) = (&mut manifest.spec, unschedulable) {
                spec.unschedulable = unschedulable;
            }
        },
    )
    .await
}

pub(super) async fn remove(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Params(params): Params<RemoveParams>,
) -> Answer {
    delete(&rest, &caller, Kind::Node, id, &headers, &params).await
}

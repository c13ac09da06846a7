//! `/api/v1/sandboxes`

use super::Rest;
use super::answer::Refusal;
use super::body::{self, Params, Patch, SandboxPatch};
use super::objects::{
    Answer, ListParams, RemoveParams, ShowParams, change_object, delete, one, page, single,
};
use crate::access::Caller;
use crate::api::Write;
use axum::Extension;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use proto::object::Kind;
use proto::wire::{self, manifest::Spec};
use serde_json::Value;

pub(super) async fn create(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let manifest = body::manifest(Kind::Sandbox, &bytes)?;
    create_manifest(&rest, &caller, &headers, manifest).await
}

pub(super) async fn create_manifest(
    rest: &Rest,
    caller: &Caller,
    headers: &HeaderMap,
    manifest: wire::Manifest,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let accepted = rest
        .api
        .apply(caller, body::request_id(headers), manifest, Write::Expecting(0))
        .await?;
    Ok((StatusCode::CREATED, single(accepted.object)?))
}

pub(super) async fn list(State(rest): State<Rest>, Params(params): Params<ListParams>) -> Answer {
    page(&rest, Kind::Sandbox, params).await
}

pub(super) async fn show(
    State(rest): State<Rest>,
    Path(id): Path<String>,
    Params(params): Params<ShowParams>,
) -> Answer {
    one(&rest, Kind::Sandbox, &id, &params).await
}

pub(super) async fn change(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Answer {
    let patch = Patch::<SandboxPatch>::parse(&bytes)?;
    let ttl_seconds = patch
        .spec
        .as_ref()
        .and_then(|spec| spec.ttl_seconds)
        .or(patch.ttl_seconds);
    change_object(
        &rest,
        &caller,
        Kind::Sandbox,
        &id,
        &headers,
        patch.resource_version,
        |manifest| {
            patch.apply_labels(&mut manifest.labels);
            if let (Some(Spec::Sandbox(spec)), Some(ttl_seconds)) = (&mut manifest.spec, ttl_seconds) {
                spec.ttl_seconds = ttl_seconds;
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
) -> Answer {
    delete(
        &rest,
        &caller,
        Kind::Sandbox,
        id,
        &headers,
        &RemoveParams::default(),
    )
    .await
}

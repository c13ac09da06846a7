//! From JSON and query strings to checked requests.

use super::answer::Refusal;
use crate::api::Fault;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use proto::manifest;
use proto::object::Kind;
use proto::spec::{Labels, Manifest};
use proto::wire;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A UUID by which a retried write is known again.
pub(super) const REQUEST_ID: &str = "idempotency-key";

/// The query string; what is wrong with it is told as any other error.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(Refusal::new(StatusCode::BAD_REQUEST, error.body_text())),
        }
    }
}

/// What the client calls its write, or a new name.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let given = headers
        .get(REQUEST_ID)
        .map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    given.unwrap_or_else(new_request_id)
}

pub(super) fn new_request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|e| Fault::Invalid(format!("body: {e}")))
}

/// `{id, metadata, spec}` as a manifest of `kind`.
///
/// # Errors
/// All that is wrong with it, by path.
pub(super) fn manifest(kind: Kind, body: &[u8]) -> Result<wire::Manifest, Fault> {
    let mut document: Map<String, Value> = json(body)?;
    let name = match kind {
        Kind::Sandbox => "Sandbox",
        Kind::Node => "Node",
        Kind::External => "External",
    };
    // Whole manifests are accepted as well, of the right kind.
    let given = document.entry("kind").or_insert(Value::from(name));
    if given != name {
        return Err(Fault::Invalid(format!(
            "kind: {given} does not belong here, this path is for {name}"
        )));
    }
    document
        .entry("apiVersion")
        .or_insert(Value::from("sandboxd.o/v1"));
    // JSON is YAML.
    let parsed = manifest::parse(&Value::Object(document).to_string())?;
    let one: Option<&Manifest> = parsed.first();
    Ok(one
        .ok_or_else(|| Fault::Invalid("body: no object".to_owned()))?
        .into())
}

/// What `PATCH` may change of an object; absent is unchanged.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch<S> {
    #[serde(default)]
    metadata: MetadataPatch,
    #[serde(default)]
    labels: LabelsPatch,
    /// Of sandboxes; the same as `spec.ttl_seconds`.
    #[serde(default)]
    pub(super) ttl_seconds: Option<u64>,
    pub(super) spec: Option<S>,
    /// Only if the object still has this version.
    pub(super) resource_version: Option<u64>,
}

/// `null` removes.
type LabelsPatch = BTreeMap<String, Option<String>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetadataPatch {
    #[serde(default)]
    labels: LabelsPatch,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SandboxPatch {
    pub(super) ttl_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodePatch {
    pub(super) unschedulable: Option<bool>,
}

impl<S: DeserializeOwned> Patch<S> {
    /// # Errors
    /// [`Fault::Invalid`]
    pub(super) fn parse(body: &[u8]) -> Result<Self, Fault> {
        json(body)
    }

    pub(super) fn apply_labels(&self, labels: &mut Labels) {
        for (key, value) in self.labels.iter().chain(&self.metadata.labels) {
            match value {
                Some(value) => drop(labels.insert(key.clone(), value.clone())),
                None => drop(labels.remove(key)),
            }
        }
    }
}

/// `key=value,...`; absent: none.
///
/// # Errors
/// [`Fault::Invalid`]
pub(super) fn selector(text: Option<&str>) -> Result<Labels, Fault> {
    match text {
        None | Some("") => Ok(Labels::new()),
        Some(text) => manifest::parse_selector(text).map_err(|why| Fault::Invalid(format!("label: {why}"))),
    }
}

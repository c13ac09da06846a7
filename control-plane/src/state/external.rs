//! What commands do to externals.

use super::transaction::Transaction;
use super::{Rejection, Response};
use proto::id::ExternalId;
use proto::object::External;
use proto::spec::{ExternalSpec, Labels};
use proto::wire::Outcome;
use proto::wire::object::Object;
use std::sync::Arc;

pub(super) fn apply(
    to: &mut Transaction<'_>,
    id: ExternalId,
    labels: Labels,
    spec: ExternalSpec,
) -> Result<Response, Rejection> {
    let other = to
        .state()
        .external_of
        .get(&spec.node_id)
        .filter(|other| **other != id);
    if let Some(other) = other {
        let node = &spec.node_id;
        return Err(Rejection::conflict(format!(
            "node {node} has the external {other} already: change that one, or delete it first"
        )));
    }
    let old = to.state().external(&id).cloned();
    let (outcome, external) = match old {
        Some(old) if old.labels == labels && old.spec == spec => (Outcome::Unchanged, old),
        old => {
            let outcome = if old.is_some() {
                Outcome::Configured
            } else {
                Outcome::Created
            };
            let now = to.stamp.now;
            let external = to.put_external(External {
                id,
                labels,
                spec,
                created_at: old.map_or(now, |old| old.created_at),
                updated_at: now,
                resource_version: 0,
            });
            (outcome, external)
        }
    };
    Ok(respond(outcome, &external))
}

pub(super) fn delete(to: &mut Transaction<'_>, id: &str) -> Result<Response, Rejection> {
    let external = id
        .parse()
        .ok()
        .and_then(|id: ExternalId| to.state().external(&id).cloned());
    let external = external.ok_or_else(|| Rejection::not_found("external", id))?;
    to.remove_external(&external.id);
    Ok(respond(Outcome::Deleted, &external))
}

fn respond(outcome: Outcome, external: &Arc<External>) -> Response {
    Response {
        outcome,
        object: Some(Object::External(external.as_ref().into())),
    }
}

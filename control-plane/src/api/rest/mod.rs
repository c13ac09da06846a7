//! REST, beside gRPC on the same port. Translates JSON and nothing else; every replica serves all of it, and hands
//! on what only the leader can do.
//!
//! | file | owns |
//! |---|---|
//! | `sandboxes`, `nodes`, `externals`, `policy`, `cluster` | what can be done with each |
//! | `through_node` | the same through one node, and what is asked of it |
//! | `objects` | what these have in common |
//! | `logs`, `watch` | lines and changes |
//! | `health` | whether this replica lives and is ready, its figures, and the API's description |
//! | `body` | from JSON to checked requests |
//! | `forward` | hands a request on to the leader |
//! | `answer` | from faults to HTTP statuses, the only such place |

mod answer;
mod body;
mod cluster;
mod externals;
mod forward;
mod health;
mod logs;
mod nodes;
mod objects;
mod policy;
mod sandboxes;
mod through_node;
mod watch;

use super::{Api, Fault};
use crate::access::Denied;
use crate::metrics::Metrics;
use answer::Refusal;
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use identity::dial::Dialer;

/// What handlers work with.
#[derive(Clone)]
struct Rest {
    api: Api,
    leaders: forward::Leaders,
    metrics: Metrics,
}

/// All routes of the interface.
pub fn router(api: &Api, dialer: Dialer, metrics: &Metrics) -> Router {
    let rest = Rest {
        api: api.clone(),
        leaders: forward::Leaders::new(dialer),
        metrics: metrics.clone(),
    };
    let leaders = Router::new()
        .route("/api/v1/sandboxes", post(sandboxes::create))
        .route(
            "/api/v1/sandboxes/{id}",
            patch(sandboxes::change).delete(sandboxes::remove),
        )
        .route("/api/v1/sandboxes/{id}/logs", get(logs::read))
        .route("/api/v1/nodes", post(nodes::apply))
        .route("/api/v1/nodes/{id}", patch(nodes::change).delete(nodes::remove))
        .route("/api/v1/nodes/{id}/heartbeat", post(through_node::heartbeat))
        .route("/api/v1/nodes/{id}/reconcile", post(through_node::reconcile))
        .route(
            "/api/v1/nodes/{id}/sandboxes",
            get(through_node::list).post(through_node::create),
        )
        .route(
            "/api/v1/nodes/{id}/sandboxes/{sid}",
            get(through_node::show).delete(through_node::remove),
        )
        .route("/api/v1/nodes/{id}/sandboxes/{sid}/logs", get(through_node::logs))
        .route(
            "/api/v1/nodes/{id}/sandboxes/{sid}/containers/{c}/logs",
            get(through_node::container_logs),
        )
        .route("/api/v1/externals", post(externals::apply))
        .route("/api/v1/externals/{id}", delete(externals::remove))
        .route("/api/v1/policy", patch(policy::change))
        .route_layer(from_fn_with_state(rest.clone(), forward::to_leader));
    let any = Router::new()
        .route("/api/v1/sandboxes", get(sandboxes::list))
        .route("/api/v1/sandboxes/{id}", get(sandboxes::show))
        .route("/api/v1/nodes", get(nodes::list))
        .route("/api/v1/nodes/{id}", get(nodes::show))
        .route("/api/v1/externals", get(externals::list))
        .route("/api/v1/externals/{id}", get(externals::show))
        .route("/api/v1/policy", get(policy::show))
        .route("/api/v1/cluster", get(cluster::show))
        .route("/api/v1/watch", get(watch::events));
    Router::new()
        .merge(leaders)
        .merge(any)
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/openapi.json", get(health::description))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(rest)
}

/// What somebody is told who is turned away.
#[must_use]
pub fn refuse(denied: Denied) -> Response {
    Refusal::from(Fault::from(denied)).into_response()
}

/// A gRPC client must hear of an unknown service in its own words.
async fn not_found(headers: HeaderMap) -> Response {
    let content = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes());
    if content.is_some_and(|content| content.starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("no such service").into_http::<axum::body::Body>();
    }
    Refusal::new(StatusCode::NOT_FOUND, "no such path; see /openapi.json").into_response()
}

async fn method_not_allowed() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "no such method on this path; see /openapi.json",
    )
}

#[cfg(test)]
mod tests;

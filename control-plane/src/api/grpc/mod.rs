//! gRPC: users' `Control` and agents' `Agent`. Translates messages and nothing else.
//!
//! | file | owns |
//! |---|---|
//! | `control` | users |
//! | `agent` | agents |
//! | `access` | tokens and certificates |
//! | `health` | health and reflection, as gRPC's own tools ask for them |
//! | `cluster` | replicas that come and go |
//! | `status` | from faults to gRPC statuses, the only such place |

mod access;
mod agent;
mod cluster;
mod control;
mod health;
mod status;

pub use health::Health;

use super::Api;
use crate::access::{Caller, Denied, Gate};
use proto::wire::access_server::AccessServer;
use proto::wire::agent_server::AgentServer;
use proto::wire::cluster_server::ClusterServer;
use proto::wire::control_server::ControlServer;
use tokio_stream::Stream;
use tonic::service::Routes;

/// Largest request: a manifest, or an inventory of a node with thousands of sandboxes.
const MAX_REQUEST_BYTES: usize = 16 << 20;

type Streamed<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// Who asks, as the gate has found out.
fn caller<T>(request: &tonic::Request<T>) -> Caller {
    let caller = request.extensions().get::<Caller>();
    caller.cloned().unwrap_or_else(Caller::unknown)
}

/// What somebody is told who is turned away.
#[must_use]
pub fn refuse(denied: Denied) -> axum::response::Response {
    status::denied_status(&denied).into_http()
}

/// All services, added to other routes of the port.
pub fn add_to(routes: Routes, api: &Api, gate: &Gate, health: &Health) -> Routes {
    let control = ControlServer::new(control::ControlService(api.clone()));
    let agent = AgentServer::new(agent::AgentService(api.sessions().clone()));
    let access = AccessServer::new(access::AccessService(gate.clone()));
    let routes = health.add_to(routes);
    let cluster = ClusterServer::new(cluster::ClusterService(api.clone()));
    routes
        .add_service(cluster.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(access.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(control.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(agent.max_decoding_message_size(MAX_REQUEST_BYTES))
}

//! gRPC: users' `Control` and agents' `Agent`. Translates messages and nothing else.
//!
//! | file | owns |
//! |---|---|
//! | `control` | users |
//! | `agent` | agents |
//! | `status` | from faults to gRPC statuses, the only such place |

mod agent;
mod control;
mod status;

use super::Api;
use proto::wire::agent_server::AgentServer;
use proto::wire::control_server::ControlServer;
use tokio_stream::Stream;
use tonic::service::Routes;

/// Largest request: a manifest, or an inventory of a node with thousands of sandboxes.
const MAX_REQUEST_BYTES: usize = 16 << 20;

type Streamed<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// Both services, added to other routes of the port.
pub fn add_to(routes: Routes, api: &Api) -> Routes {
    let control = ControlServer::new(control::ControlService(api.clone()));
    let agent = AgentServer::new(agent::AgentService(api.sessions().clone()));
    routes
        .add_service(control.max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(agent.max_decoding_message_size(MAX_REQUEST_BYTES))
}

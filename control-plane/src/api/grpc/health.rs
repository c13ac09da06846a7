//! Health and reflection, as gRPC's own tools ask for them: `grpc.health.v1.Health` per service, open to everybody as
//! `/readyz` is, and `grpc.reflection.v1.ServerReflection`.

use crate::raft::{Leadership, Replica};
use proto::wire::access_server::AccessServer;
use proto::wire::agent_server::AgentServer;
use proto::wire::control_server::ControlServer;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::{access, agent, control};

const CONTROL: &str = <ControlServer<control::ControlService> as NamedService>::NAME;
const ACCESS: &str = <AccessServer<access::AccessService> as NamedService>::NAME;
const AGENT: &str = <AgentServer<agent::AgentService> as NamedService>::NAME;
/// The replica as a whole.
const WHOLE: &str = "";

/// What this replica says of itself. Clones share.
#[derive(Clone, Default)]
pub struct Health(HealthReporter);

impl Health {
    pub(super) fn add_to(&self, routes: Routes) -> Routes {
        let service = HealthServer::new(HealthService::from_health_reporter(self.0.clone()));
        let routes = routes.add_service(service);
        let mut reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        // Only what is served on this port.
        for name in [CONTROL, ACCESS, AGENT, "grpc.health.v1.Health"] {
            reflection = reflection.with_service_name(name);
        }
        match reflection.build_v1() {
            Ok(service) => routes.add_service(service),
            Err(error) => {
                tracing::warn!(%error, "no gRPC reflection: the description of the services is damaged");
                routes
            }
        }
    }

    /// Tells how it is from now on: users are served where a leader is known, agents where it is this replica, nobody
    /// once it stops.
    pub async fn follow(self, replica: Replica, stopping: CancellationToken) {
        let mut leadership = replica.leadership();
        loop {
            let now = leadership.borrow_and_update().clone();
            for (service, serves) in served(&now) {
                self.tell(service, serves).await;
            }
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { break },
                () = stopping.cancelled() => break,
            }
        }
        for (service, _) in served(&Leadership::default()) {
            self.tell(service, false).await;
        }
    }

    async fn tell(&self, service: &str, serves: bool) {
        let status = if serves {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.0.set_service_status(service, status).await;
    }
}

fn served(now: &Leadership) -> [(&'static str, bool); 4] {
    let ready = now.leader.is_some();
    [
        (WHOLE, ready),
        (CONTROL, ready),
        (ACCESS, ready),
        (AGENT, now.is_self),
    ]
}

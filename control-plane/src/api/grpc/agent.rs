//! The agents' service.

use super::Streamed;
use super::status::{relay_status, session_status};
use crate::session::Sessions;
use proto::wire::{self, agent_server::Agent};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

pub(super) struct AgentService(pub(super) Sessions);

#[tonic::async_trait]
impl Agent for AgentService {
    type SessionStream = Streamed<wire::LeaderMessage>;
    type RelayStream = Streamed<wire::RelayDown>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = super::caller(&request);
        let told = self
            .0
            .open(caller, request.into_inner())
            .await
            .map_err(|e| session_status(&e))?;
        let told = ReceiverStream::new(told).map(|told| told.map_err(|e| session_status(&e)));
        Ok(Response::new(Box::pin(told)))
    }

    async fn relay(
        &self,
        request: Request<Streaming<wire::RelayUp>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let caller = super::caller(&request);
        let down = self
            .0
            .relay(&caller, request.into_inner())
            .await
            .map_err(|e| relay_status(&e))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(down))))
    }
}

//! The service of those who run the control plane.

use super::status::status;
use super::{Streamed, caller};
use crate::api::{Api, Fault, Steps};
use proto::wire::{self, cluster_server::Cluster};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub(super) struct ClusterService(pub(super) Api);

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Fault>) -> Answer<T> {
    result.map(Response::new).map_err(|fault| status(&fault))
}

fn steps(steps: Steps) -> Streamed<wire::ReplicaProgress> {
    Box::pin(ReceiverStream::new(steps).map(|step| step.map_err(|fault| status(&fault))))
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type AddReplicaStream = Streamed<wire::ReplicaProgress>;
    type PromoteReplicaStream = Streamed<wire::ReplicaProgress>;
    type CheckStream = Streamed<wire::CheckedReplica>;
    type BackupStream = Streamed<wire::BackupPart>;

    async fn add_replica(&self, request: Request<wire::AddReplicaRequest>) -> Answer<Self::AddReplicaStream> {
        let caller = caller(&request);
        answer(self.0.add_replica(&caller, request.into_inner()).await.map(steps))
    }

    async fn promote_replica(
        &self,
        request: Request<wire::PromoteReplicaRequest>,
    ) -> Answer<Self::PromoteReplicaStream> {
        let caller = caller(&request);
        answer(Ok(steps(
            self.0.promote_replica(&caller, request.into_inner().id),
        )))
    }

    async fn backup(&self, request: Request<wire::BackupRequest>) -> Answer<Self::BackupStream> {
        let caller = caller(&request);
        let parts = self.0.backup(&caller, request.into_inner().stale).await;
        answer(parts.map(|parts| -> Self::BackupStream {
            Box::pin(ReceiverStream::new(parts).map(|part| part.map_err(|fault| status(&fault))))
        }))
    }

    async fn check(&self, request: Request<wire::CheckRequest>) -> Answer<Self::CheckStream> {
        let caller = caller(&request);
        let checked = self.0.check_replicas(&caller, request.into_inner().request_id);
        answer(
            checked
                .await
                .map(|replicas| -> Self::CheckStream { Box::pin(replicas.map(Ok)) }),
        )
    }

    async fn remove_replica(
        &self,
        request: Request<wire::RemoveReplicaRequest>,
    ) -> Answer<wire::RemoveReplicaResponse> {
        let caller = caller(&request);
        let wire::RemoveReplicaRequest { id, force } = request.into_inner();
        let removed = self.0.remove_replica(&caller, id, force).await;
        answer(removed.map(|()| wire::RemoveReplicaResponse {}))
    }

    async fn transfer_leadership(
        &self,
        request: Request<wire::TransferLeadershipRequest>,
    ) -> Answer<wire::TransferLeadershipResponse> {
        let caller = caller(&request);
        let leader = self.0.transfer_leadership(&caller, request.into_inner().to).await;
        answer(leader.map(|leader| wire::TransferLeadershipResponse { leader_id: leader.id }))
    }
}

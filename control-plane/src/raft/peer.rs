//! What this replica answers to the others: `service Raft` on the peer listener.
//!
//! Translates and bounds; every decision is openraft's. [`super::network`] is the asking half.

use super::checks::{Checks, NOT_SUMMED, Summed};
use super::describe;
use super::dismissal::Dismissal;
use super::hearing::Hearing;
use super::incoming::Inbox;
use super::levels::Levels;
use super::link::{CONNECTION_WINDOW, MAX_MESSAGE_BYTES, Recipient, STREAM_WINDOW};
use super::message;
use super::read;
use super::replica::Raft;
use super::replicated::Replicated;
use super::space::{Level, Space};
use super::succession::Succession;
use super::{codec, transfer};
use crate::listen::{Audience, Incoming};
use crate::security::Security;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::errors::Fatal;
use proto::wire;
use proto::wire::raft_server::RaftServer;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

/// A connection over which the other side no longer answers pings is closed, with what it holds.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// This replica as its peers see it.
#[derive(Debug, Clone)]
pub(super) struct PeerService {
    pub(super) id: u64,
    pub(super) raft: Raft,
    pub(super) inbox: Inbox,
    pub(super) succession: Succession,
    pub(super) replicated: Arc<Replicated>,
    pub(super) dismissal: Dismissal,
    pub(super) hearing: Hearing,
    pub(super) space: Space,
    pub(super) levels: Levels,
    pub(super) checks: Checks,
    /// Replication streams end by themselves when this replica is to stop, and not by their leader.
    pub(super) stopping: CancellationToken,
}

/// Serves the other replicas until `shutdown`.
///
/// # Errors
/// Where the listener fails.
pub(super) async fn serve(
    listener: TcpListener,
    security: Security,
    service: PeerService,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let recipient = Recipient {
        id: service.id,
        certified: matches!(security, Security::Tls(_)),
    };
    let server = RaftServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(InterceptedService::new(server, recipient))
        .serve_with_incoming_shutdown(Incoming::start(listener, security, Audience::Replicas), shutdown)
        .await
}

#[tonic::async_trait]
impl wire::raft_server::Raft for PeerService {
    type AppendEntriesStream = BoxStream<'static, Result<wire::AppendResponse, Status>>;

    async fn append_entries(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        let succession = self.succession.clone();
        let hearing = self.hearing.clone();
        let space = self.space.clone();
        let mut leader = None;
        let requests = request.into_inner();
        let requests = requests.take_until(self.stopping.clone().cancelled_owned());
        let requests = tokio_stream::StreamExt::map_while(requests, move |request| match request {
            Ok(request) => {
                hearing.heard();
                // Heartbeats take no room; the leader sends entries again until there is some.
                if !request.entries.is_empty() && space.admit_from_leader().is_err() {
                    return None;
                }
                leader = request.vote.map(|vote| vote.node_id);
                message::append_from(request)
                    .inspect_err(|e| tracing::warn!(leader, "a malformed request to append: {e}"))
                    .ok()
            }
            Err(broken) => {
                tracing::debug!(leader, "a replication stream has broken off: {broken}");
                leader.into_iter().for_each(|leader| succession.broken(leader));
                None
            }
        });
        let mut introduction = Some(self.levels.software());
        let answers = self.raft.stream_append(requests).map(move |answer| match answer {
            Ok(result) => Ok(message::appended(&result, introduction.take())),
            Err(fatal) => Err(stopped(&fatal)),
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let request = message::vote_request_from(request.into_inner()).map_err(malformed)?;
        let response = self.raft.vote(request).await.map_err(|e| unavailable(&e))?;
        Ok(Response::new(message::vote_response(&response)))
    }

    async fn pre_vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let request = message::vote_request_from(request.into_inner()).map_err(malformed)?;
        let response = self.raft.pre_vote(request).await.map_err(|e| unavailable(&e))?;
        Ok(Response::new(message::vote_response(&response)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::SnapshotInstalled>, Status> {
        let room = self.space.admit_from_leader();
        room.map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let (vote, snapshot) = transfer::receive(&self.inbox, request.into_inner())
            .await
            .inspect_err(|e| tracing::warn!("a snapshot from another replica did not arrive: {e}"))
            .map_err(|e| Status::aborted(e.to_string()))?;
        let vote = message::vote_of("snapshot_start.vote", vote).map_err(malformed)?;
        tracing::info!(covers = %snapshot.meta, bytes = snapshot.snapshot.size(), "installing a snapshot from the leader");
        let response = self.raft.install_full_snapshot(vote, snapshot).await;
        let response = response.map_err(|fatal| stopped(&fatal))?;
        Ok(Response::new(wire::SnapshotInstalled {
            vote: Some(codec::vote(&response.vote)),
        }))
    }

    async fn held_snapshot(
        &self,
        request: Request<wire::SnapshotStart>,
    ) -> Result<Response<wire::SnapshotHeld>, Status> {
        let held = transfer::held(&self.inbox, request.into_inner()).await;
        let held = held.map_err(|e| Status::aborted(e.to_string()))?;
        Ok(Response::new(held))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        let request = message::transfer_from(request.into_inner()).map_err(malformed)?;
        let response = self.raft.handle_transfer_leader(request).await;
        let response = response.map_err(|fatal| stopped(&fatal))?;
        Ok(Response::new(message::transferred(&response)))
    }

    async fn read_index(
        &self,
        _: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexResponse>, Status> {
        match read::confirm_own(&self.raft).await {
            Ok(index) => Ok(Response::new(wire::ReadIndexResponse { index })),
            Err(e) => Err(Status::unavailable(e.to_string())),
        }
    }

    async fn describe_cluster(
        &self,
        _: Request<wire::ClusterRequest>,
    ) -> Result<Response<wire::ClusterResponse>, Status> {
        let cluster = describe::cluster(self.id, &self.raft, &self.replicated, &self.levels);
        Ok(Response::new(cluster))
    }

    async fn look_for_room(
        &self,
        _: Request<wire::LookForRoomRequest>,
    ) -> Result<Response<wire::LookForRoomResponse>, Status> {
        let plenty = self.space.look() == Level::Plenty;
        Ok(Response::new(wire::LookForRoomResponse { plenty }))
    }

    async fn dismiss(
        &self,
        request: Request<wire::DismissRequest>,
    ) -> Result<Response<wire::DismissResponse>, Status> {
        let leader = request.into_inner().leader_id;
        tracing::warn!(leader, "this replica was removed from the cluster");
        let dismissal = self.dismissal.clone();
        let noted = tokio::task::spawn_blocking(move || dismissal.dismiss()).await;
        match noted {
            Ok(Ok(())) => Ok(Response::new(wire::DismissResponse {})),
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    async fn state_sum(
        &self,
        request: Request<wire::StateSumRequest>,
    ) -> Result<Response<wire::StateSumResponse>, Status> {
        match self.checks.summed(&request.into_inner().request_id).await {
            Some(Summed { index, digest }) => Ok(Response::new(wire::StateSumResponse {
                index,
                sum: digest.0.to_vec(),
            })),
            None => Err(Status::deadline_exceeded(NOT_SUMMED)),
        }
    }
}

fn malformed(error: codec::CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(fatal: &Fatal<super::types::TypeConfig>) -> Status {
    unavailable(fatal)
}

fn unavailable(error: &impl std::error::Error) -> Status {
    Status::unavailable(error.to_string())
}

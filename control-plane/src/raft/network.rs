//! openraft's side of the wire: what a replica asks of another one, each request bounded in time.
//!
//! Owns the client half of `service Raft`; [`super::peer`] is the other half. Decides nothing about the log.

use super::append::{self, unreachable};
use super::codec;
use super::levels::Levels;
use super::link::{Lane, Links, Peer};
use super::message;
use super::snapshot::SnapshotFiles;
use super::transfer;
use super::types::{Member, TypeConfig, Vote};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream, StreamExt};
use openraft::RaftNetworkFactory;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::future::Future;
use std::time::Duration;
use tonic::{Response, Status};

/// Between attempts at a replica that can't be reached: it is found again within the last of these and a
/// connection's time, and attempts that fail cost next to nothing.
const BACKOFF: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

/// Makes the clients through which openraft reaches other replicas.
#[derive(Debug, Clone)]
pub(super) struct Network {
    links: Links,
    levels: Levels,
}

impl Network {
    pub(super) fn new(links: Links, levels: Levels) -> Self {
        Self { links, levels }
    }

    fn client(&self, target: u64, node: &Member, lane: Lane) -> Client {
        Client {
            links: self.links.clone(),
            levels: self.levels.clone(),
            target,
            member: node.clone(),
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    /// For the log, and for votes: those are told apart where they are sent.
    async fn new_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node, Lane::Pulse)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node, Lane::Snapshot)
    }
}

/// One replica as another one's openraft asks it.
#[derive(Debug)]
pub(super) struct Client {
    links: Links,
    levels: Levels,
    target: u64,
    member: Member,
    lane: Lane,
}

impl Client {
    fn peer(&self, lane: Lane) -> Result<Peer, RPCError<TypeConfig>> {
        self.links
            .peer(self.target, &self.member, lane)
            .map_err(unreachable)
    }
}

/// A request and its answer, within the time that openraft gives it.
async fn bounded<T>(
    option: &RPCOption,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RPCError<TypeConfig>> {
    let answered = tokio::time::timeout(option.soft_ttl(), call).await;
    Ok(answered.map_err(unreachable)?.map_err(unreachable)?.into_inner())
}

impl NetStreamAppend<TypeConfig> for Client {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        // openraft bounds a heartbeat itself; the log has the session's own, far longer, limits.
        Box::pin(async move {
            let answers =
                append::session(self.peer(self.lane)?, self.target, self.levels.clone(), input).await?;
            Ok(answers.boxed())
        })
    }
}

impl NetVote<TypeConfig> for Client {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut peer = self.peer(Lane::Pulse)?;
        let response = bounded(&option, peer.vote(message::vote_request(&rpc))).await?;
        message::vote_response_from(response).map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut peer = self.peer(Lane::Pulse)?;
        let response = bounded(&option, peer.pre_vote(message::vote_request(&rpc))).await?;
        message::vote_response_from(response).map_err(unreachable)
    }
}

impl NetTransferLeader<TypeConfig> for Client {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut peer = self.peer(Lane::Pulse)?;
        let response = bounded(&option, peer.transfer_leader(message::transfer(&req))).await?;
        Ok(message::transferred_from(response, &req))
    }
}

impl NetSnapshot<TypeConfig> for Client {
    type SnapshotData = SnapshotFiles;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: super::snapshot::Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let peer = self.peer(Lane::Snapshot)?;
        let sending = transfer::send(peer, codec::vote(&vote), snapshot.snapshot);
        let installed = tokio::select! {
            closed = cancel => return Err(closed.into()),
            installed = sending => installed.map_err(unreachable)?,
        };
        let vote = message::vote_of("snapshot_installed.vote", installed.vote).map_err(unreachable)?;
        Ok(SnapshotResponse::new(vote))
    }
}

impl NetBackoff<TypeConfig> for Client {
    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF[BACKOFF.len() - 1];
        Some(Backoff::new(BACKOFF.into_iter().chain(std::iter::repeat(last))))
    }
}

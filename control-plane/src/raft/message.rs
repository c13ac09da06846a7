//! What replicas say to each other, between openraft's types and the wire's. No I/O.

use super::codec::{self, CodecError};
use super::types::{LogId, TypeConfig, Vote};
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use proto::wire;

type Result<T> = std::result::Result<T, CodecError>;

pub(super) fn vote_of(field: &'static str, vote: Option<wire::Vote>) -> Result<Vote> {
    vote.map(codec::vote_from).ok_or(CodecError::Missing { field })
}

pub(super) fn log_id_of(id: Option<wire::LogId>) -> Option<LogId> {
    id.map(codec::log_id_from)
}

pub(super) fn log_id(id: Option<&LogId>) -> Option<wire::LogId> {
    id.map(codec::log_id)
}

pub(super) fn append_from(request: wire::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>> {
    Ok(AppendEntriesRequest {
        vote: vote_of("append.vote", request.vote)?,
        prev_log_id: log_id_of(request.prev_log_id),
        entries: request
            .entries
            .into_iter()
            .map(codec::entry_from)
            .collect::<Result<_>>()?,
        leader_commit: log_id_of(request.leader_commit),
    })
}

/// `software`: what this replica runs, with the first answer of a stream.
pub(super) fn appended(
    result: &StreamAppendResult<TypeConfig>,
    software: Option<wire::Software>,
) -> wire::AppendResponse {
    use wire::append_response::Result as Wire;
    let result = match result {
        Ok(matched) => Wire::Matched(wire::Matched {
            log_id: log_id(matched.as_ref()),
        }),
        Err(StreamAppendError::Conflict(at)) => Wire::Conflict(codec::log_id(at)),
        Err(StreamAppendError::HigherVote(higher)) => Wire::HigherVote(codec::vote(higher)),
    };
    wire::AppendResponse {
        result: Some(result),
        software,
    }
}

pub(super) fn appended_from(response: wire::AppendResponse) -> Result<StreamAppendResult<TypeConfig>> {
    use wire::append_response::Result as Wire;
    let result = response.result.ok_or(CodecError::Missing {
        field: "append_response.result",
    })?;
    Ok(match result {
        Wire::Matched(matched) => Ok(log_id_of(matched.log_id)),
        Wire::Conflict(at) => Err(StreamAppendError::Conflict(codec::log_id_from(at))),
        Wire::HigherVote(higher) => Err(StreamAppendError::HigherVote(codec::vote_from(higher))),
    })
}

pub(super) fn vote_request(request: &VoteRequest<TypeConfig>) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(codec::vote(&request.vote)),
        last_log_id: log_id(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from(request: wire::VoteRequest) -> Result<VoteRequest<TypeConfig>> {
    let mut vote = VoteRequest::new(
        vote_of("vote_request.vote", request.vote)?,
        log_id_of(request.last_log_id),
    );
    vote.leadership_transfer = request.leadership_transfer;
    Ok(vote)
}

pub(super) fn vote_response(response: &VoteResponse<TypeConfig>) -> wire::VoteResponse {
    wire::VoteResponse {
        vote: Some(codec::vote(&response.vote)),
        granted: response.vote_granted,
        last_log_id: log_id(response.last_log_id.as_ref()),
    }
}

pub(super) fn vote_response_from(response: wire::VoteResponse) -> Result<VoteResponse<TypeConfig>> {
    Ok(VoteResponse::new(
        vote_of("vote_response.vote", response.vote)?,
        log_id_of(response.last_log_id),
        response.granted,
    ))
}

pub(super) fn transfer(request: &TransferLeaderRequest<TypeConfig>) -> wire::TransferLeaderRequest {
    wire::TransferLeaderRequest {
        from_leader: Some(codec::vote(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: log_id(request.last_log_id()),
    }
}

pub(super) fn transfer_from(
    request: wire::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>> {
    Ok(TransferLeaderRequest::new(
        vote_of("transfer_leader.from_leader", request.from_leader)?,
        request.to,
        log_id_of(request.last_log_id),
    ))
}

pub(super) fn transferred(response: &TransferLeaderResponse<TypeConfig>) -> wire::TransferLeaderResponse {
    use wire::transfer_leader_response::Refusal;
    let refusal = match response {
        Ok(()) => None,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => {
            Some(Refusal::VoteChanged(codec::vote(actual)))
        }
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => Some(Refusal::LogBehind(wire::LogBehind {
            last_log_id: log_id(actual.as_ref()),
        })),
    };
    wire::TransferLeaderResponse { refusal }
}

/// `request` is what was answered.
pub(super) fn transferred_from(
    response: wire::TransferLeaderResponse,
    request: &TransferLeaderRequest<TypeConfig>,
) -> TransferLeaderResponse<TypeConfig> {
    use wire::transfer_leader_response::Refusal;
    match response.refusal {
        None => Ok(()),
        Some(Refusal::VoteChanged(actual)) => Err(TransferLeaderError::VoteChanged {
            expected: *request.from_leader(),
            actual: codec::vote_from(actual),
        }),
        Some(Refusal::LogBehind(behind)) => Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: log_id_of(behind.last_log_id),
        }),
    }
}

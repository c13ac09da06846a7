//! `/api/v1/cluster`

use super::Rest;
use super::answer::Refusal;
use super::body::Params;
use super::sandboxes::ShowParams;
use axum::Json;
use axum::extract::State;
use proto::wire;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct ClusterDocument {
    replicas: Vec<ReplicaDocument>,
    /// `null` where none is known.
    leader_id: Option<u64>,
    term: u64,
    last_applied: u64,
    answered_by: u64,
}

#[derive(Debug, Serialize)]
struct ReplicaDocument {
    id: u64,
    role: &'static str,
    endpoint: String,
    peer_endpoint: String,
    reachable: bool,
    /// `null` where it is not known.
    matched_index: Option<u64>,
    lag: u64,
}

pub(super) async fn show(
    State(rest): State<Rest>,
    Params(params): Params<ShowParams>,
) -> Result<Json<ClusterDocument>, Refusal> {
    Ok(Json(rest.api.cluster(params.stale).await?.into()))
}

impl From<wire::ClusterResponse> for ClusterDocument {
    fn from(cluster: wire::ClusterResponse) -> Self {
        Self {
            replicas: cluster.replicas.into_iter().map(ReplicaDocument::from).collect(),
            leader_id: (cluster.leader_id != 0).then_some(cluster.leader_id),
            term: cluster.term,
            last_applied: cluster.last_applied,
            answered_by: cluster.answered_by,
        }
    }
}

impl From<wire::Replica> for ReplicaDocument {
    fn from(replica: wire::Replica) -> Self {
        Self {
            id: replica.id,
            role: match (replica.leader, replica.voter) {
                (true, _) => "leader",
                (false, true) => "follower",
                (false, false) => "learner",
            },
            endpoint: replica.endpoint,
            peer_endpoint: replica.peer_endpoint,
            reachable: replica.reachable,
            matched_index: (replica.matched_index != 0).then_some(replica.matched_index),
            lag: replica.lag,
        }
    }
}

//! The cluster as one replica sees it: members, who leads, how far each has come, who answers.
//!
//! Only a leader knows how far the others are; elsewhere what is not known is 0 and not reachable. Called by
//! [`super::replica`] and [`super::peer`].

use super::levels::Levels;
use super::replica::Raft;
use super::replicated::Replicated;
use super::types::TypeConfig;
use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use proto::wire;
use std::time::Duration;

/// A replica that has answered the leader within this time is reachable: many heartbeats, and less than a user
/// would wait for the truth.
const REACHABLE_WITHIN: Duration = Duration::from_secs(1);

/// What replica `id` knows at present.
pub(super) fn cluster(
    id: u64,
    raft: &Raft,
    replicated: &Replicated,
    levels: &Levels,
) -> wire::ClusterResponse {
    let state = replicated.read();
    let removed = state.replica_numbers().filter(|number| number.removed);
    let removed = removed.map(|number| number.id).collect();
    let level = state.level().0;
    drop(state);
    wire::ClusterResponse {
        removed,
        level,
        ..from_metrics(id, &raft.metrics().borrow_watched(), levels)
    }
}

fn from_metrics(id: u64, metrics: &RaftMetrics<TypeConfig>, levels: &Levels) -> wire::ClusterResponse {
    let last = metrics.last_log_index.unwrap_or(0);
    let leads = metrics.state == ServerState::Leader;
    let membership = metrics.membership_config.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let replicas = membership
        .nodes()
        .map(|(&other, member)| {
            let matched_index = if other == id {
                last
            } else {
                let progress = metrics.replication.as_ref().and_then(|all| all.get(&other));
                progress.copied().flatten().map_or(0, |matched| matched.index)
            };
            wire::Replica {
                id: other,
                endpoint: member.endpoint.clone(),
                peer_endpoint: member.peer_endpoint.clone(),
                voter: voters.contains(&other),
                leader: metrics.current_leader == Some(other),
                matched_index,
                lag: if leads {
                    last.saturating_sub(matched_index)
                } else {
                    0
                },
                reachable: other == id || answers(metrics, other),
                software: levels.of(other, metrics.current_term),
            }
        })
        .collect();
    wire::ClusterResponse {
        replicas,
        leader_id: metrics.current_leader.unwrap_or(0),
        term: metrics.current_term,
        last_applied: metrics.last_applied.map_or(0, |applied| applied.index),
        answered_by: id,
        removed: Vec::new(),
        level: 0,
        software: Some(levels.software()),
    }
}

/// Whether a replica has answered the leader, which this one is, a short while ago.
pub(super) fn answers(metrics: &RaftMetrics<TypeConfig>, id: u64) -> bool {
    let acked = metrics.heartbeat.as_ref().and_then(|all| all.get(&id));
    acked
        .and_then(|at| at.as_ref())
        .is_some_and(|at| at.elapsed() < REACHABLE_WITHIN)
}

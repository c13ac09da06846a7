//! The replicas as rows and document.

use super::Table;
use proto::wire;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct ClusterView {
    replicas: Vec<ReplicaView>,
    /// `null` where none is known.
    leader_id: Option<u64>,
    term: u64,
    last_applied: u64,
    answered_by: u64,
}

#[derive(Debug, Serialize)]
struct ReplicaView {
    id: u64,
    role: &'static str,
    endpoint: String,
    peer_endpoint: String,
    reachable: bool,
    /// `null` where it is not known.
    matched_index: Option<u64>,
    lag: u64,
}

impl From<wire::ClusterResponse> for ClusterView {
    fn from(wire: wire::ClusterResponse) -> Self {
        Self {
            replicas: wire.replicas.into_iter().map(ReplicaView::from).collect(),
            leader_id: (wire.leader_id != 0).then_some(wire.leader_id),
            term: wire.term,
            last_applied: wire.last_applied,
            answered_by: wire.answered_by,
        }
    }
}

impl From<wire::Replica> for ReplicaView {
    fn from(wire: wire::Replica) -> Self {
        Self {
            id: wire.id,
            role: match (wire.leader, wire.voter) {
                (true, _) => "leader",
                (false, true) => "follower",
                (false, false) => "learner",
            },
            endpoint: wire.endpoint,
            peer_endpoint: wire.peer_endpoint,
            reachable: wire.reachable,
            matched_index: (wire.matched_index != 0).then_some(wire.matched_index),
            lag: wire.lag,
        }
    }
}

impl ClusterView {
    #[must_use]
    pub fn table(&self, wide: bool) -> String {
        let mut header = vec!["ID", "ROLE", "REACHABLE", "MATCHED", "LAG", "ENDPOINT"];
        if wide {
            header.extend(["PEER-ENDPOINT", "TERM", "ANSWERED-BY"]);
        }
        let mut table = Table::new(header);
        for replica in &self.replicas {
            let matched = replica.matched_index;
            let mut row = vec![
                replica.id.to_string(),
                replica.role.to_owned(),
                if replica.reachable { "yes" } else { "no" }.to_owned(),
                matched.map_or("-".to_owned(), |index| index.to_string()),
                matched.map_or("-".to_owned(), |_| replica.lag.to_string()),
                replica.endpoint.clone(),
            ];
            if wide {
                row.extend([
                    replica.peer_endpoint.clone(),
                    self.term.to_string(),
                    self.answered_by.to_string(),
                ]);
            }
            table.push(row);
        }
        table.render()
    }
}

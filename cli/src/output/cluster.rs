//! The replicas as rows.

use super::Table;
use proto::document::ClusterDocument;

#[must_use]
pub fn cluster_table(cluster: &ClusterDocument, wide: bool) -> String {
    let mut header = vec!["ID", "ROLE", "REACHABLE", "MATCHED", "LAG", "ENDPOINT"];
    if wide {
        header.extend(["PEER-ENDPOINT", "TERM", "ANSWERED-BY"]);
    }
    let mut table = Table::new(header);
    for replica in &cluster.replicas {
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
                cluster.term.to_string(),
                cluster.answered_by.to_string(),
            ]);
        }
        table.push(row);
    }
    table.render()
}

/// The replicas with what they run and both their addresses.
#[must_use]
pub fn members_table(cluster: &ClusterDocument) -> String {
    let mut table = Table::new(vec![
        "ID",
        "ROLE",
        "REACHABLE",
        "MATCHED",
        "LAG",
        "LEVEL",
        "IN-FORCE",
        "VERSION",
        "ENDPOINT",
        "PEER-ENDPOINT",
    ]);
    for replica in &cluster.replicas {
        let matched = replica.matched_index;
        table.push(vec![
            replica.id.to_string(),
            replica.role.to_owned(),
            if replica.reachable { "yes" } else { "no" }.to_owned(),
            matched.map_or("-".to_owned(), |index| index.to_string()),
            matched.map_or("-".to_owned(), |_| replica.lag.to_string()),
            replica.level.map_or("-".to_owned(), |level| level.to_string()),
            cluster.level.to_string(),
            replica.version.clone().unwrap_or("-".to_owned()),
            replica.endpoint.clone(),
            replica.peer_endpoint.clone(),
        ]);
    }
    table.render()
}

//! The first membership of a cluster: from configuration, or from `sbxorch cluster init`.
//!
//! Any replica that is configured with the first members may form the cluster with them, more than one as well:
//! the lists are the same, and the election decides whose first entry holds. They take turns, so that as a rule one
//! does and one election is enough, and no replica is waited for. Called by [`super::replica`].

use super::replica::Raft;
use super::types::{Member, TypeConfig};
use crate::config::Peer;
use openraft::errors::{Fatal, InitializeError, RaftError};
use proto::wire;
use std::collections::BTreeMap;
use std::time::Duration;

/// Between the turns of two replicas that could form the cluster: the first one's election, on a slow disk.
const TURN: Duration = Duration::from_millis(500);

/// Why no cluster is formed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InitError {
    #[error("this replica, {0}, is part of a cluster already")]
    Formed(u64),
    #[error("{0} replicas cannot form a cluster, it takes 1, 3 or 5")]
    Size(usize),
    #[error("replica {0} occurs twice")]
    Twice(u64),
    #[error("every replica needs a number of its own, 1 or more")]
    Id,
    #[error("this replica, {0}, is not in the list")]
    Missing(u64),
    #[error("replica {id}: `{url}` must begin with {scheme}, as this replica's own does")]
    Url {
        id: u64,
        url: String,
        scheme: &'static str,
    },
    #[error("the list says that this replica is at {listed}, but it is configured as {own}")]
    Differs { listed: String, own: String },
    #[error("this replica cannot go on: {0}")]
    Stopped(Fatal<TypeConfig>),
}

/// Where the members of a cluster are, by their numbers.
pub(super) type Members = BTreeMap<u64, Member>;

/// The members that a configuration lists; they were checked there.
pub(super) fn configured(peers: &[Peer]) -> Members {
    let member = |peer: &Peer| Member {
        peer_endpoint: peer.peer_endpoint.clone(),
        endpoint: peer.endpoint.clone(),
    };
    peers.iter().map(|peer| (peer.id, member(peer))).collect()
}

/// The members that a request lists; `id` and `own` are the replica that was asked.
///
/// # Errors
/// The first thing that is wrong with the list.
pub(super) fn requested(id: u64, own: &Member, replicas: Vec<wire::Replica>) -> Result<Members, InitError> {
    if !matches!(replicas.len(), 1 | 3 | 5) {
        return Err(InitError::Size(replicas.len()));
    }
    let scheme = if own.endpoint.starts_with("https://") {
        "https://"
    } else {
        "http://"
    };
    let mut members = Members::new();
    for replica in replicas {
        let id = replica.id;
        if id == 0 {
            return Err(InitError::Id);
        }
        for url in [&replica.peer_endpoint, &replica.endpoint] {
            if url.strip_prefix(scheme).is_none_or(str::is_empty) {
                let url = url.clone();
                return Err(InitError::Url { id, url, scheme });
            }
        }
        let member = Member {
            peer_endpoint: replica.peer_endpoint,
            endpoint: replica.endpoint,
        };
        if members.insert(id, member).is_some() {
            return Err(InitError::Twice(id));
        }
    }
    let listed = members.get(&id).ok_or(InitError::Missing(id))?;
    for (listed, own) in [
        (&listed.peer_endpoint, &own.peer_endpoint),
        (&listed.endpoint, &own.endpoint),
    ] {
        if listed != own {
            let (listed, own) = (listed.clone(), own.clone());
            return Err(InitError::Differs { listed, own });
        }
    }
    Ok(members)
}

/// Forms the cluster, unless this replica has a log or a vote already.
///
/// # Errors
/// [`InitError::Formed`] where it has, [`InitError::Stopped`] where consensus has ended.
pub(super) async fn form(id: u64, raft: &Raft, members: Members) -> Result<(), InitError> {
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(InitError::Formed(id)),
        Err(RaftError::APIError(InitializeError::NotInMembers(_))) => Err(InitError::Missing(id)),
        Err(RaftError::Fatal(fatal)) => Err(InitError::Stopped(fatal)),
    }
}

/// Forms the configured cluster when it is this replica's turn, unless another one has reached it by then.
pub(super) async fn form_in_turn(id: u64, raft: Raft, members: Members) {
    let before = members.keys().filter(|&&other| other < id).count();
    tokio::time::sleep(TURN * u32::try_from(before).unwrap_or(u32::MAX)).await;
    match form(id, &raft, members).await {
        Ok(()) => tracing::info!("the cluster is formed as configured"),
        Err(InitError::Formed(_)) => {}
        Err(e) => tracing::error!("the configured cluster is not formed: {e}"),
    }
}

//! How a replica learns that it was removed, and that it stays so. The entry that removes a replica is the first one that
//! it is not sent: without a word it would stand for elections that nobody lets it win, and serve what grows old.
//!
//! Owns the mark in the data folder, which no start passes. Told by the leader ([`super::peer`]) or found out here, by
//! a replica that no leader speaks to any more.

use super::durable::{self, FileError};
use super::hearing::Hearing;
use super::link::{Lane, Links};
use super::replica::Raft;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use proto::wire;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// In the data folder of a replica that was removed.
const FILE: &str = "removed";
/// A replica that has heard no leader for so long asks the others whether it is one of them; several elections.
const SILENCE: Duration = Duration::from_secs(3);
/// For one replica's word on that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known of a removal of this replica. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Dismissal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    removed: watch::Sender<bool>,
    hearing: Hearing,
}

/// Whether the replica whose folder this is was removed.
pub(super) fn is_marked(dir: &Path) -> bool {
    dir.join(FILE).exists()
}

impl Dismissal {
    pub(super) fn of(dir: &Path, hearing: Hearing) -> Self {
        Self(Arc::new(Inner {
            path: dir.join(FILE),
            removed: watch::Sender::new(false),
            hearing,
        }))
    }

    /// It was removed: marked before anybody is told.
    pub(super) fn dismiss(&self) -> Result<(), FileError> {
        durable::replace(
            &self.0.path,
            b"This replica was removed from its cluster. Its number is never used again.\n",
        )?;
        self.0.removed.send_replace(true);
        Ok(())
    }

    /// Returns once it was removed.
    pub(super) async fn dismissed(&self) {
        if self
            .0
            .removed
            .subscribe()
            .wait_for(|removed| *removed)
            .await
            .is_err()
        {
            std::future::pending().await
        }
    }

    /// Asks the other members whenever no leader speaks to this replica for a while. Until consensus ends.
    pub(super) async fn find_out(self, id: u64, raft: Raft, links: Links) {
        loop {
            tokio::time::sleep(SILENCE).await;
            let others = {
                let metrics = raft.metrics();
                let metrics = metrics.borrow_watched();
                if metrics.running_state.is_err() {
                    return;
                }
                let leads = metrics.state == ServerState::Leader;
                let silence = self.0.hearing.silence();
                if leads || silence.is_some_and(|silence| silence < SILENCE) {
                    continue;
                }
                let nodes = metrics.membership_config.membership().nodes();
                let others = nodes.filter(|(other, _)| **other != id);
                others
                    .map(|(other, member)| (*other, member.clone()))
                    .collect::<Vec<_>>()
            };
            for (other, member) in others {
                let Ok(mut peer) = links.peer(other, &member, Lane::Pulse) else {
                    continue;
                };
                let asked = peer.describe_cluster(wire::ClusterRequest::default());
                let Ok(Ok(cluster)) = tokio::time::timeout(ANSWER_TIMEOUT, asked).await else {
                    continue;
                };
                // A leader that was deposed may not know of it yet, but is never wrong where it does.
                if cluster.into_inner().removed.contains(&id) {
                    tracing::warn!(by = other, "this replica was removed while it was away");
                    if let Err(error) = self.dismiss() {
                        tracing::error!(%error, "the removal can't be noted");
                    }
                    return;
                }
            }
        }
    }
}

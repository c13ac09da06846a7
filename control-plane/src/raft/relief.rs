//! What a leader does whose disk has no room for what it is asked to write: it lets a voter lead whose disk has.
//!
//! Never hands over where nobody has room: then the refusal stands. Called by [`super::replica`] when a write was refused
//! for that; the other half is [`super::peer`], which looks at this replica's disk.

use super::leadership::Leader;
use super::link::{Lane, Links};
use super::members::{MemberError, Members};
use crate::clock;
use futures::future::join_all;
use proto::wire;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// For one replica's word on its disk. Whoever writes waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// Where nobody had room, it is asked no more often than this, however many writes are refused.
const PAUSE: Duration = Duration::from_secs(1);

/// The way out of a disk that is nearly full. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Relief {
    members: Members,
    links: Links,
    /// When it was last tried in vain; held while it is tried.
    in_vain: Arc<Mutex<Option<Instant>>>,
}

impl Relief {
    pub(super) fn new(members: Members, links: Links) -> Self {
        Self {
            members,
            links,
            in_vain: Arc::default(),
        }
    }

    /// Who leads instead of this replica; `None`: it has to.
    pub(super) async fn find(&self) -> Option<Leader> {
        let mut in_vain = self.in_vain.lock().await;
        let successors = match self.members.successors() {
            Ok(successors) => successors,
            // Whoever was here before has found somebody.
            Err(MemberError::NotLeader { leader }) => return leader,
            Err(_) => return None,
        };
        if in_vain.is_some_and(|at| clock::instant().duration_since(at) < PAUSE) {
            return None;
        }
        let found = self.hand_over(&successors).await;
        *in_vain = found.is_none().then(clock::instant);
        found
    }

    /// To the best prepared one that has room.
    async fn hand_over(&self, successors: &[u64]) -> Option<Leader> {
        let rooms = join_all(successors.iter().map(|id| self.has_room(*id))).await;
        let (to, _) = successors.iter().zip(rooms).find(|(_, has_room)| *has_room)?;
        match self.members.transfer(*to).await {
            Ok(leader) => {
                tracing::warn!(to = leader.id, "another replica leads, whose disk has room");
                Some(leader)
            }
            Err(MemberError::NotLeader { leader }) => leader,
            Err(error) => {
                tracing::warn!(to, %error, "leadership is not handed over to a replica whose disk has room");
                None
            }
        }
    }

    async fn has_room(&self, id: u64) -> bool {
        let Some(member) = self.members.member(id) else {
            return false;
        };
        let Ok(mut peer) = self.links.peer(id, &member, Lane::Pulse) else {
            return false;
        };
        let asking = peer.look_for_room(wire::LookForRoomRequest {});
        // One of an earlier version does not know of it.
        matches!(timeout(ANSWER_TIMEOUT, asking).await, Ok(Ok(room)) if room.get_ref().plenty)
    }
}

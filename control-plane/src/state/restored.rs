//! What a state becomes that is taken from a backup into a new cluster. Pure.
//!
//! What the old cluster did after the backup is lost, but not without a trace: agents run sandboxes of which this state
//! knows nothing. So that nothing of theirs is taken for something new, uids go on far beyond those that were given out;
//! and no replica of the old cluster is taken for one of the new.

use super::replica::ReplicaNumber;
use super::{Change, State, Write, stored};
use proto::object::Node;
use proto::status::NodeState;
use std::sync::Arc;

/// Where the new cluster begins to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// Of the log entry that the restored state counts as.
    pub index: u64,
    /// No sandbox of the new cluster has this uid, or a smaller one.
    pub last_uid: u64,
}

impl State {
    /// What has to be written over the records of a backup. `members` are the numbers of the old cluster's replicas.
    #[must_use]
    pub fn restored(&self, members: impl Iterator<Item = u64>, beginning: Beginning) -> Vec<Write> {
        let mut writes = Vec::new();
        for node in self.nodes.values() {
            // Until its agent says what runs there, or its lease is over as that of any other.
            if node.state != NodeState::Ready {
                continue;
            }
            let after = Node {
                state: NodeState::NotReady,
                last_error: "restored from a backup, and not heard of since".to_owned(),
                resource_version: beginning.index,
                updated_at: self.now,
                ..node.as_ref().clone()
            };
            let before = Some(node.clone());
            let after = Some(Arc::new(after));
            writes.extend(stored::change(&Change::Node { before, after }));
        }
        let known = self.replicas.keys().copied();
        let mut numbers: Vec<u64> = members.chain(known).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for id in numbers {
            let claimed_by = self.replicas.get(&id).and_then(|known| known.claimed_by.clone());
            writes.push(stored::replica_number(&ReplicaNumber {
                id,
                claimed_by,
                removed: true,
                at: self.now,
            }));
        }
        let meta = State {
            now: self.now,
            last_uid: self.last_uid.max(beginning.last_uid),
            policy: self.policy,
            had_tokens: self.had_tokens,
            level: self.level,
            ..State::default()
        };
        writes.push(stored::meta(&meta));
        writes
    }
}

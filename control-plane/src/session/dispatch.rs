//! From changes of the state to the sessions that they concern: one reader of all changes for all agents, so that
//! an agent costs nothing while nothing of its own changes. Called by `Sessions`.

use super::desired::concerned;
use super::table::Table;
use crate::raft::{ChangeSet, Replicated};
use crate::state::Change;

/// Without end.
pub(super) async fn run(replicated: &Replicated, sessions: &Table) {
    let mut changes = replicated.subscribe();
    loop {
        match changes.recv().await {
            Ok(set) => dispatch(&set, sessions),
            // What was missed is made up by telling everything.
            Err(missed) => {
                tracing::warn!(
                    since = missed.since,
                    oldest = missed.oldest,
                    "behind the changes of the state, or a snapshot has replaced it; all agents are told everything anew"
                );
                changes = replicated.subscribe();
                sessions.touch_all();
            }
        }
    }
}

fn dispatch(set: &ChangeSet, sessions: &Table) {
    for change in &set.changes {
        match change {
            Change::Sandbox { before, after, .. } => {
                for (node, uid) in concerned(before.as_deref(), after.as_deref()) {
                    sessions.touch(node, uid);
                }
            }
            // Its agent registers anew if it still runs.
            Change::Node {
                before: Some(node),
                after: None,
            } => sessions.end(&node.id),
            Change::Node { .. } | Change::External { .. } => {}
        }
    }
}

//! From changes of the state to the sessions that they concern: one reader of all changes for all agents, so that
//! an agent costs nothing while nothing of its own changes. Called by `Sessions`.

use super::desired::concerned;
use super::table::Table;
use crate::raft::{ChangeSet, Replicated};
use crate::state::Change;
use tokio::sync::broadcast::error::RecvError;

/// Runs until the replica has stopped.
pub(super) async fn run(replicated: &Replicated, sessions: &Table) {
    let (_, mut changes) = replicated.subscribe();
    loop {
        match changes.recv().await {
            Ok(set) => dispatch(&set, sessions),
            // What was missed is made up by telling everything.
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(
                    missed,
                    "behind the changes of the state; all agents are told everything anew"
                );
                sessions.touch_all();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn dispatch(set: &ChangeSet, sessions: &Table) {
    if set.reset {
        sessions.touch_all();
        return;
    }
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

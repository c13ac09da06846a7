//! Ends the drain of a node when its time is over. Owns one deadline per node that is being drained, and sleeps until
//! the earliest. Called by `Controller`.

use super::{catch_up, propose};
use crate::clock;
use crate::raft::{ChangeSet, Replica, TooOld};
use crate::state::{Change, State};
use proto::id::NodeId;
use proto::object::Node;
use proto::units::Timestamp;
use proto::wire::{self, command::Op};
use std::collections::BTreeMap;
use std::time::Duration;

/// The wall clock may be set forward meanwhile: looked at this often at least.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A deadline that the log's time has not reached yet is tried again after this.
const SHORTEST_SLEEP: Duration = Duration::from_millis(5);

type Deadlines = BTreeMap<NodeId, Timestamp>;

/// Runs until it is dropped.
pub(super) async fn run(replica: &Replica) {
    loop {
        let (mut deadlines, mut changes) = replica.replicated().subscribe_with(|state| all(state));
        loop {
            let changed = tokio::select! {
                changed = changes.recv() => changed,
                () = tokio::time::sleep(wait(&deadlines, clock::now())) => {
                    end_those_over(replica, &deadlines).await;
                    if !catch_up(&mut changes, |set| update(&mut deadlines, set)) {
                        break;
                    }
                    continue;
                }
            };
            match changed {
                Ok(set) => update(&mut deadlines, &set),
                Err(TooOld { .. }) => break,
            }
        }
    }
}

fn all(state: &State) -> Deadlines {
    let draining = |node: &std::sync::Arc<Node>| Some((node.id.clone(), node.drain_until?));
    state.nodes().filter_map(draining).collect()
}

fn update(deadlines: &mut Deadlines, set: &ChangeSet) {
    for change in &set.changes {
        match change {
            Change::Node { before, after } => {
                if let Some(before) = before {
                    deadlines.remove(&before.id);
                }
                if let Some((id, until)) = after
                    .as_ref()
                    .and_then(|node| Some((&node.id, node.drain_until?)))
                {
                    deadlines.insert(id.clone(), until);
                }
            }
            Change::Sandbox { .. } | Change::External { .. } => {}
        }
    }
}

/// Until the earliest one.
fn wait(deadlines: &Deadlines, now: Timestamp) -> Duration {
    let earliest = deadlines.values().min();
    earliest.map_or(LONGEST_SLEEP, |until| {
        until.since(now).clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
    })
}

async fn end_those_over(replica: &Replica, deadlines: &Deadlines) {
    let now = clock::now();
    for node in deadlines
        .iter()
        .filter(|(_, until)| **until <= now)
        .map(|(node, _)| node)
    {
        let end = wire::EndDrain {
            node_id: node.to_string(),
        };
        propose(replica, Op::EndDrain(end)).await;
        tracing::info!(%node, "the time of its drain is over");
    }
}

//! Declares nodes NotReady after `node_grace` without a word, Lost after `node_lease`, and Ready when they are heard
//! again. Owns no times: they are `session::Liveness`'s and `attention`'s. Called by `Controller`.

use super::attention::Attention;
use super::{Proposed, propose};
use crate::clock;
use crate::config::Timings;
use crate::raft::Replica;
use crate::session::Liveness;
use proto::id::NodeId;
use proto::status::NodeState;
use proto::wire::{self, command::Op};
use std::time::Duration;

/// Nodes are looked at this often within the grace: late by a twentieth of it at most. 5,000 of them cost well
/// below a millisecond.
const LOOKS_PER_GRACE: u32 = 20;
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Runs until it is dropped.
pub(super) async fn run(replica: &Replica, liveness: &Liveness, attention: &Attention, timings: &Timings) {
    let pause = (timings.node_grace / LOOKS_PER_GRACE).max(SHORTEST_PAUSE);
    loop {
        tokio::time::sleep(pause).await;
        let now = clock::instant();
        let due: Vec<(NodeId, NodeState, Duration)> = {
            let state = replica.replicated().read();
            let nodes = state.nodes().filter_map(|node| {
                let seen = liveness.last_seen(&node.id);
                let silence = attention.silence(seen, now);
                let next = transition(node.state, attention.has_heard(seen), silence, timings)?;
                Some((node.id.clone(), next, silence))
            });
            nodes.collect()
        };
        // All at once, so that they ride in one entry of the log; what could not be decided is due again.
        let proposals = due.into_iter().map(|(node, state, silence)| async move {
            let reason = match state {
                NodeState::NotReady | NodeState::Lost => {
                    format!(
                        "no heartbeat for {}",
                        humantime::format_duration(whole_seconds(silence))
                    )
                }
                NodeState::Ready | NodeState::Unknown => String::new(),
            };
            let op = Op::SetNodeState(wire::SetNodeState {
                node_id: node.to_string(),
                state: wire::NodeState::from(state).into(),
                reason,
            });
            if propose(replica, op).await == Proposed::Done {
                tracing::info!(%node, %state, ?silence, "node changed");
            }
        });
        futures::future::join_all(proposals).await;
    }
}

/// The state that a node must get, if another one. `heard`: by this leader.
fn transition(state: NodeState, heard: bool, silence: Duration, timings: &Timings) -> Option<NodeState> {
    let deserved = if silence >= timings.node_lease {
        NodeState::Lost
    } else if silence >= timings.node_grace {
        NodeState::NotReady
    } else {
        NodeState::Ready
    };
    match (state, deserved) {
        // No agent was ever here: its registration makes it Ready.
        (NodeState::Unknown, _) => None,
        // Once it was given up, only a word of its own helps: not the begin of a new leadership, from which
        // silence counts anew.
        (NodeState::Lost, NodeState::NotReady) => None,
        (NodeState::NotReady | NodeState::Lost, NodeState::Ready) if !heard => None,
        (state, deserved) => (state != deserved).then_some(deserved),
    }
}

fn whole_seconds(silence: Duration) -> Duration {
    Duration::from_secs(silence.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(state: NodeState, silent_seconds: u64, expected: Option<NodeState>) {
        check_heard(state, true, silent_seconds, expected);
    }

    #[track_caller]
    fn check_heard(state: NodeState, heard: bool, silent_seconds: u64, expected: Option<NodeState>) {
        let silence = Duration::from_secs(silent_seconds);
        let next = transition(state, heard, silence, &Timings::default());
        assert_eq!(
            next, expected,
            "{state}, heard: {heard}, silent for {silent_seconds} s"
        );
    }

    #[test]
    fn state_follows_the_length_of_the_silence() {
        use NodeState::{Lost, NotReady, Ready, Unknown};
        check(Ready, 9, None);
        check(Ready, 10, Some(NotReady));
        check(Ready, 60, Some(Lost));
        check(NotReady, 59, None);
        check(NotReady, 60, Some(Lost));
        check(NotReady, 1, Some(Ready));
        check(Lost, 100, None);
        check(Lost, 30, None);
        check(Lost, 1, Some(Ready));
        check(Unknown, 0, None);
        check(Unknown, 100, None);
    }

    #[test]
    fn new_leader_takes_no_silent_node_for_ready() {
        use NodeState::{Lost, NotReady, Ready};
        check_heard(NotReady, false, 1, None);
        check_heard(Lost, false, 1, None);
        check_heard(Ready, false, 10, Some(NotReady));
        check_heard(NotReady, false, 60, Some(Lost));
    }
}

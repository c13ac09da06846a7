//! The agent's side of its conversation with the control plane: finds the leader, stays with it, and finds the
//! next one. Owns connections and nothing else: what arrives goes to the [`Ledger`] and the [`Lease`], what is told comes from
//! [`Reports`]. There is no Linux in here, so that all of it is tested against a leader played by a test.
//!
//! | file | owns |
//! |---|---|
//! | `target` | which replica is tried next, and when; pure |
//! | `dial` | one attempt, up to the leader's welcome |
//! | `link` | the conversation from then on, until it breaks |
//! | `relay` | streams that the leader asks for on behalf of users |
//!
//! Called by `main`. Losing the leader ends no sandbox: see `lease` for what does.

mod dial;
mod link;
mod relay;
mod target;

use crate::lease::Lease;
use crate::ledger::Ledger;
use crate::relay::Sandboxes;
use crate::report::Reports;
pub(crate) use dial::text as said;
use dial::{Dialled, Doors};
use identity::dial::Dialer;
use proto::id::NodeId;
use proto::spec::Labels;
use proto::wire;
use std::sync::Arc;
use std::time::{Duration, Instant};
use target::Targets;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A conversation that is over so soon was about something that the next one may meet again: another agent of the
/// same name, a leader from before this node's ledger.
const BRIEF: Duration = Duration::from_secs(1);
/// The pause after one, at most. A leader that is replaced right after it was found costs no more than this.
const AFTER_BRIEF: Duration = Duration::from_millis(500);

/// Over which agents spread at most after they have lost their leader, whatever it has said: still well within the
/// contract's 10 s after which a node counts as silent.
const LONGEST_SPREAD: Duration = Duration::from_secs(5);

/// What sandboxes use of the node at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub cpu_milli: u64,
    pub memory_bytes: u64,
}

/// What a session tells of the node, and what it brings there.
pub struct Node {
    pub id: NodeId,
    /// How replicas are reached.
    pub dialer: Dialer,
    pub labels: Labels,
    pub report: wire::NodeReport,
    pub ledger: Arc<Ledger>,
    pub lease: Arc<Lease>,
    pub reports: Reports,
    /// Asked once per heartbeat.
    pub usage: Box<dyn Fn() -> Used + Send + Sync>,
    /// The replicas that the last leader has told of.
    pub replicas: watch::Sender<Vec<String>>,
    /// For those who speak with one.
    pub sandboxes: Sandboxes,
}

impl Node {
    /// A leader has told which replicas there are.
    fn learn(&self, endpoints: &[String]) {
        self.replicas.send_if_modified(|known| {
            let changed = *known != endpoints;
            endpoints.clone_into(known);
            changed
        });
    }
}

/// Stays with the leader, whoever it is, until `stop`.
pub async fn run(servers: Vec<String>, node: Arc<Node>, stop: CancellationToken) {
    let mut targets = Targets::new(servers);
    stop.run_until_cancelled(follow(&mut targets, &node)).await;
}

async fn follow(targets: &mut Targets, node: &Arc<Node>) {
    let mut doors = Doors::default();
    loop {
        let target = targets.next();
        let why = match doors.dial(&target, node).await {
            Ok(Dialled::Leader(link)) => {
                doors.close();
                targets.connected(&target, &link.welcome.endpoints);
                node.learn(&link.welcome.endpoints);
                tracing::info!(
                    leader = target,
                    id = link.welcome.leader_id,
                    "connected to the leader"
                );
                let begun = Instant::now();
                let mut spread = Duration::ZERO;
                let why = link.hold(node, &mut spread).await;
                tracing::warn!(leader = target, %why, "lost the leader; sandboxes go on");
                // Replicas may have come meanwhile, and those that were known may be gone.
                targets.connected(&target, &node.replicas.borrow());
                targets.lost(&target, rand::random());
                if begun.elapsed() < BRIEF {
                    tokio::time::sleep(rand::random_range(AFTER_BRIEF / 2..=AFTER_BRIEF)).await;
                }
                // All agents of the cluster have lost it at this moment.
                let spread = spread.min(LONGEST_SPREAD);
                tokio::time::sleep(rand::random_range(Duration::ZERO..=spread)).await;
                continue;
            }
            Ok(Dialled::Follower { leader }) => {
                targets.redirected(&target, leader.as_deref());
                format!(
                    "it does not lead, {}",
                    leader.as_deref().unwrap_or("nobody does at present")
                )
            }
            Err(error) => {
                targets.failed(&target);
                error.to_string()
            }
        };
        tracing::debug!(server = target, why, "not the leader");
        if let Some(pause) = targets.pause() {
            // Spread, so that the agents of a cluster don't come all at once.
            tokio::time::sleep(rand::random_range(pause / 2..=pause)).await;
        }
    }
}

/// How often the leader wants to hear from this agent; the contract's number where it does not say.
fn heartbeat(welcome: &wire::Welcome) -> Duration {
    match welcome.heartbeat_ms {
        0 => Duration::from_secs(1),
        ms => Duration::from_millis(ms),
    }
}

/// How long a heartbeat lets sandboxes run; the contract's number where the leader does not say.
fn lease(welcome: &wire::Welcome) -> Duration {
    match welcome.lease_ms {
        0 => Duration::from_secs(60),
        ms => Duration::from_millis(ms),
    }
}

#[cfg(test)]
mod tests;

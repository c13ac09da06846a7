//! Who leads, as this replica knows it. Owns the notion; never decides it (that is the vote's). Told through
//! a watch by [`watch`], heeded by `api` (redirects), `session` and the leader's `controller`.

use super::hearing::Hearing;
use super::replica::Raft;
use super::types::TypeConfig;
use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftMetrics;
use std::time::Duration;
use tokio::sync::watch;

/// A leader that no quorum has answered for this long counts as none: by then the others, if there are enough,
/// have long elected another, and agents must find that one.
const QUORUM_LOST_AFTER: Duration = Duration::from_millis(1_500);
/// How often it is looked whether a leader has lost its quorum; what happens is told at once.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Another replica, or this one, that takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub id: u64,
    /// For users and agents.
    pub endpoint: String,
}

/// Who leads at present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// `None` while an election is going on, or where this replica can't reach a quorum, or hears no leader.
    pub leader: Option<Leader>,
    /// This replica leads, and its state shows everything that was acknowledged under earlier leaders: it has
    /// applied the first entry of its own term.
    pub is_self: bool,
}

impl Leadership {
    /// As consensus has it: also a leader of whom nothing was heard for long.
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> Self {
        Self::heard(metrics, true)
    }

    /// `hears`: a leader speaks to this replica, if it does not lead itself.
    fn heard(metrics: &RaftMetrics<TypeConfig>, hears: bool) -> Self {
        let membership = metrics.membership_config.membership();
        let leader = metrics.current_leader.and_then(|id| {
            let endpoint = membership.get_node(&id)?.endpoint.clone();
            Some(Leader { id, endpoint })
        });
        let leads = metrics.state == ServerState::Leader;
        let holds = if leads { !lost_quorum(metrics) } else { hears };
        let leader = leader.filter(|_| metrics.running_state.is_ok() && holds);
        // Of this very leader: a term can see more than one.
        let applied_own = metrics
            .last_applied
            .is_some_and(|applied| applied.leader_id == metrics.vote.leader_id);
        Self {
            term: metrics.current_term,
            is_self: leads && applied_own && leader.is_some(),
            leader,
        }
    }
}

fn lost_quorum(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let alone = metrics.membership_config.membership().voter_ids().count() <= 1;
    let acked = metrics.last_quorum_acked.as_ref();
    // A new leader has none yet: it has just been elected.
    !alone && acked.is_some_and(|at| at.elapsed() > QUORUM_LOST_AFTER)
}

/// Tells who leads from now on. Ends when consensus has ended, with nobody leading.
pub(super) fn watch(raft: &Raft, hearing: Hearing) -> watch::Receiver<Leadership> {
    let mut metrics = raft.metrics();
    let hears = hearing.hears_for().is_some();
    let (told, leadership) = watch::channel(Leadership::heard(&metrics.borrow_watched(), hears));
    tokio::spawn(async move {
        loop {
            let hears_for = hearing.hears_for();
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { break },
                () = hearing.next(), if hears_for.is_none() => {}
                () = tokio::time::sleep(LOOK_EVERY.min(hears_for.unwrap_or(LOOK_EVERY))) => {}
            }
            let now = Leadership::heard(&metrics.borrow_and_update(), hearing.hears_for().is_some());
            tell(&told, now);
        }
        let term = told.borrow().term;
        tell(
            &told,
            Leadership {
                term,
                ..Leadership::default()
            },
        );
    });
    leadership
}

fn tell(told: &watch::Sender<Leadership>, now: Leadership) {
    told.send_if_modified(|before| {
        if *before == now {
            return false;
        }
        if before.leader != now.leader {
            match &now.leader {
                Some(leader) => tracing::info!(term = now.term, leader = leader.id, "a leader is known"),
                None => tracing::warn!(term = now.term, "no leader is known"),
            }
        }
        *before = now;
        true
    });
}

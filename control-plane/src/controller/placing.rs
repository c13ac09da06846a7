//! Gives pending sandboxes their nodes, or the reason why not: keeps the scheduler's view up to date from changes,
//! plans, proposes. While a proposal is on its way changes gather, so that load makes batches and idleness no
//! delay. Called by `Controller`.

use super::{Proposed, catch_up, propose};
use crate::raft::{ChangeSet, Replica, TooOld};
use crate::schedule::{self, Plan, Policy, View};
use proto::wire::{self, command::Op};

/// Placements in one proposal: an entry of about 100 KiB. More are planned as soon as it is in the log.
const BATCH: usize = 1_000;

/// Runs until it is dropped.
pub(super) async fn run(replica: &Replica, policy: Policy) {
    loop {
        let (mut view, mut changes) = replica
            .replicated()
            .subscribe_with(|state| View::of(state, policy));
        loop {
            if !view.has_work() {
                match changes.recv().await {
                    Ok(set) => update(&mut view, &set),
                    Err(TooOld { .. }) => break,
                }
            }
            if !catch_up(&mut changes, |set| update(&mut view, set)) {
                break;
            }
            carry_out(replica, schedule::plan(&mut view, rand::random(), BATCH)).await;
        }
    }
}

fn update(view: &mut View, set: &ChangeSet) {
    for change in &set.changes {
        view.update(change);
    }
}

/// Proposes a plan. What could not be placed is still waiting, as the view will say; explanations are only made once.
async fn carry_out(replica: &Replica, plan: Plan) {
    let Plan {
        placements,
        explanations,
    } = plan;
    if !placements.is_empty() {
        tracing::debug!(placements = placements.len(), "placing");
        propose(replica, Op::Place(wire::Place { placements })).await;
    }
    if !explanations.is_empty() {
        let explain = wire::ExplainPending { explanations };
        while propose(replica, Op::ExplainPending(explain.clone())).await == Proposed::Undecided {}
    }
}

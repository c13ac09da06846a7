//! Gives pending sandboxes their nodes, or the reason why not: keeps the scheduler's view up to date from changes,
//! plans, proposes. While a proposal is on its way changes gather, so that load makes batches and idleness no
//! delay. Called by `Controller`.

use super::{Instruments, Proposed, catch_up, propose};
use crate::clock;
use crate::raft::{ChangeSet, Replica, TooOld};
use crate::schedule::{self, Plan, Policy, View};
use crate::state::Change;
use crate::trace;
use proto::id::{NodeId, Uid};
use proto::status::Phase;
use proto::wire::{self, command::Op};
use spans::{Exporter, Moment};
use std::time::Duration;

/// Placements in one proposal: an entry of about 100 KiB. More are planned as soon as it is in the log.
const BATCH: usize = 1_000;

/// Runs until it is dropped.
pub(super) async fn run(replica: &Replica, policy: Policy, instruments: &Instruments, exporter: &Exporter) {
    loop {
        let (mut view, mut changes) = replica
            .replicated()
            .subscribe_with(|state| View::of(state, policy));
        loop {
            if !view.has_work() {
                match changes.recv().await {
                    Ok(set) => update(&mut view, &set, instruments),
                    Err(TooOld { .. }) => break,
                }
            }
            if !catch_up(&mut changes, |set| update(&mut view, set, instruments)) {
                break;
            }
            let begun = clock::moment();
            let plan = schedule::plan(&mut view, rand::random(), BATCH);
            instruments.plan.observe(begun.instant.elapsed().as_secs_f64());
            carry_out(replica, plan, begun, exporter).await;
        }
    }
}

fn update(view: &mut View, set: &ChangeSet, instruments: &Instruments) {
    for change in &set.changes {
        view.update(change);
        if let Some(waited) = placed_after(change) {
            if let Change::Sandbox {
                after: Some(placed), ..
            } = change
            {
                tracing::debug!(
                    sandbox = %placed.id,
                    uid = %placed.uid,
                    trace_id = placed.trace_id,
                    node = placed.status.node_name.as_ref().map(tracing::field::display),
                    "placed"
                );
            }
            instruments.placed.inc();
            instruments.wait.observe(waited.as_secs_f64());
        }
    }
}

/// Of a sandbox that has got its node: since its creation.
fn placed_after(change: &Change) -> Option<Duration> {
    let Change::Sandbox {
        before: Some(before),
        after: Some(after),
        ..
    } = change
    else {
        return None;
    };
    let placed = (before.status.phase, after.status.phase) == (Phase::Pending, Phase::Scheduled);
    placed.then(|| after.updated_at.since(after.created_at))
}

/// Proposes a plan. What could not be placed is still waiting, as the view will say; explanations are only made once.
async fn carry_out(replica: &Replica, plan: Plan, begun: Moment, exporter: &Exporter) {
    let Plan {
        placements,
        explanations,
    } = plan;
    if !placements.is_empty() {
        tracing::debug!(placements = placements.len(), "placing");
        let planned = if exporter.is_on() {
            placements.iter().map(place_of).collect()
        } else {
            Vec::new()
        };
        if propose(replica, Op::Place(wire::Place { placements })).await == Proposed::Done {
            record(replica, &planned, begun, exporter);
        }
    }
    if !explanations.is_empty() {
        let explain = wire::ExplainPending { explanations };
        while propose(replica, Op::ExplainPending(explain.clone())).await == Proposed::Undecided {}
    }
}

fn place_of(placement: &wire::Placement) -> (Uid, String) {
    (Uid(placement.uid), placement.node_id.clone())
}

/// Spans of the placements that have taken effect; the state does not take all, where the world has moved on.
fn record(replica: &Replica, planned: &[(Uid, String)], begun: Moment, exporter: &Exporter) {
    let now = clock::instant();
    let state = replica.replicated().read();
    let placed = planned.iter().filter_map(|(uid, node)| {
        let sandbox = state.sandbox_by_uid(*uid)?;
        let is_there = sandbox.status.node_name.as_ref().map(NodeId::as_str) == Some(node);
        is_there.then(|| trace::placed(sandbox, begun, now))?
    });
    exporter.record(placed);
}

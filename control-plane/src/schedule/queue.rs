//! The sandboxes that wait for a node, in their turns. Owns who is worth another look: what fitted nowhere is set
//! aside until something changes for the better. Kept by `view`, walked by `plan`.

use proto::id::{SandboxId, Uid};
use proto::object::Sandbox;
use proto::status::Phase;
use proto::units::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// The order in which sandboxes are placed: priority, then age.
pub(super) type Turn = (Reverse<i32>, Timestamp, Uid);

/// `None`: it does not wait.
fn turn(sandbox: &Sandbox) -> Option<Turn> {
    let waits = sandbox.status.phase == Phase::Pending;
    waits.then_some((Reverse(sandbox.spec.priority), sandbox.created_at, sandbox.uid))
}

/// Each waiting sandbox is in one of `waiting` and `aside`.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Turn, Arc<Sandbox>>,
    /// Fitted nowhere when they were last looked at; nothing has changed for the better since.
    aside: BTreeMap<Turn, Arc<Sandbox>>,
    /// On their way out of their nodes. Whoever has one's id waits for it: no id runs twice.
    leaving: BTreeSet<(SandboxId, Uid)>,
}

impl Queue {
    pub(super) fn update(&mut self, before: Option<&Sandbox>, after: Option<&Arc<Sandbox>>) {
        let mut was_aside = false;
        if let Some(before) = before {
            if let Some(turn) = turn(before) {
                self.waiting.remove(&turn);
                was_aside = self.aside.remove(&turn).is_some();
            }
            if self.leaving.remove(&(before.id.clone(), before.uid)) {
                self.look_again();
            }
        }
        let Some(after) = after else {
            return;
        };
        if after.status.phase == Phase::Deleting {
            self.leaving.insert((after.id.clone(), after.uid));
        }
        if let Some(turn) = turn(after) {
            // One that was aside has got other labels or an explanation: what it needs is the same.
            let queue = if was_aside {
                &mut self.aside
            } else {
                &mut self.waiting
            };
            queue.insert(turn, Arc::clone(after));
        }
    }

    /// The first in turn after that one that is worth a look.
    pub(super) fn next(&self, after: Option<Turn>) -> Option<(Turn, Arc<Sandbox>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (turn, sandbox) = self.waiting.range((from, Bound::Unbounded)).next()?;
        Some((*turn, Arc::clone(sandbox)))
    }

    /// It fits nowhere at present.
    pub(super) fn set_aside(&mut self, turn: Turn) {
        if let Some(sandbox) = self.waiting.remove(&turn) {
            self.aside.insert(turn, sandbox);
        }
    }

    /// Something has changed for the better: all are worth a look again.
    pub(super) fn look_again(&mut self) {
        self.waiting.append(&mut self.aside);
    }

    /// Whether a node has still to clear away an older one of its id.
    pub(super) fn has_predecessor(&self, sandbox: &Sandbox) -> bool {
        let of_id = (sandbox.id.clone(), Uid(0))..(sandbox.id.clone(), sandbox.uid);
        self.leaving.range(of_id).next().is_some()
    }

    /// Whether anybody is worth a look.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.is_empty()
    }
}

//! What a sandbox is to a node, and the message that says so. Pure: decides from values, sends nothing. Called by
//! `stream` for what it sends and by `dispatch` for whom a change concerns.

use proto::id::{NodeId, Uid};
use proto::object::Sandbox;
use proto::status::Phase;
use proto::units::Timestamp;
use proto::wire;

/// What the agent of a node shall do about a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Have it run.
    Run,
    /// Keep its logs and state, run nothing.
    Keep,
    /// Have nothing of it.
    Remove,
}

/// As the cluster's state has it; `sandbox` is what the state holds under its uid.
pub(super) fn standing(node: &NodeId, sandbox: Option<&Sandbox>) -> Standing {
    let Some(sandbox) = sandbox.filter(|s| s.status.node_name.as_ref() == Some(node)) else {
        return Standing::Remove;
    };
    match sandbox.status.phase {
        Phase::Scheduled | Phase::Running => Standing::Run,
        Phase::Succeeded | Phase::Failed => Standing::Keep,
        // A pending one is on no node; were it, this node must not start it.
        Phase::Pending | Phase::Deleting => Standing::Remove,
    }
}

/// The nodes whose agents must hear of a change from `before` to `after`. What agents report themselves, such as
/// Scheduled turning Running, concerns none.
pub(super) fn concerned<'a>(
    before: Option<&'a Sandbox>,
    after: Option<&'a Sandbox>,
) -> impl Iterator<Item = (&'a NodeId, Uid)> {
    let place = |s: &'a Sandbox| s.status.node_name.as_ref().map(|node| (node, s.uid));
    let (old, new) = (before.and_then(place), after.and_then(place));
    let left = old.filter(|_| old != new);
    let joined = new.filter(|(node, _)| {
        let same = before.filter(|_| old == new);
        same.zip(after).is_none_or(|(before, after)| {
            standing(node, Some(before)) != standing(node, Some(after))
                || before.status.expire_at != after.status.expire_at
                || before.status.assigned_ports != after.status.assigned_ports
                || before.spec != after.spec
        })
    });
    left.into_iter().chain(joined)
}

/// One sandbox as its agent gets it at `now`.
pub(super) fn message(sandbox: &Sandbox, now: Timestamp) -> wire::DesiredSandbox {
    // 0 would mean "never": what is overdue ends at once.
    let ttl_remaining_ms = sandbox
        .status
        .expire_at
        .map_or(0, |at| at.0.saturating_sub(now.0).max(1));
    wire::DesiredSandbox {
        sandbox_id: sandbox.id.to_string(),
        uid: sandbox.uid.0,
        spec: Some((&sandbox.spec).into()),
        ports: sandbox.status.assigned_ports.iter().map(Into::into).collect(),
        ttl_remaining_ms,
        ended: sandbox.status.phase.has_ended(),
        trace_id: sandbox.trace_id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sample::{node, sandbox};

    #[track_caller]
    fn check_standing(phase: Phase, on: &str, expected: Standing) {
        let sandbox = sandbox("s", 7, phase, Some("n1"));
        assert_eq!(standing(&node(on), Some(&sandbox)), expected, "{phase} on {on}");
    }

    #[test]
    fn sandbox_is_wanted_where_it_is_placed_and_kept_when_it_has_ended() {
        check_standing(Phase::Scheduled, "n1", Standing::Run);
        check_standing(Phase::Running, "n1", Standing::Run);
        check_standing(Phase::Succeeded, "n1", Standing::Keep);
        check_standing(Phase::Failed, "n1", Standing::Keep);
        check_standing(Phase::Deleting, "n1", Standing::Remove);
        check_standing(Phase::Pending, "n1", Standing::Remove);
        check_standing(Phase::Running, "n2", Standing::Remove);
        assert_eq!(standing(&node("n1"), None), Standing::Remove);
    }

    #[track_caller]
    fn check_concerned(before: Option<&Sandbox>, after: Option<&Sandbox>, expected: &[(&str, u64)]) {
        let concerned: Vec<(&str, u64)> = concerned(before, after)
            .map(|(node, uid)| (node.as_str(), uid.0))
            .collect();
        assert_eq!(concerned, expected);
    }

    #[test]
    fn change_concerns_the_nodes_whose_work_it_changes() {
        let pending = sandbox("s", 7, Phase::Pending, None);
        let scheduled = sandbox("s", 7, Phase::Scheduled, Some("n1"));
        let running = sandbox("s", 7, Phase::Running, Some("n1"));
        let failed = sandbox("s", 7, Phase::Failed, Some("n1"));
        let elsewhere = sandbox("s", 7, Phase::Scheduled, Some("n2"));
        let replaced = sandbox("s", 8, Phase::Scheduled, Some("n1"));
        let mut longer = running.clone();
        longer.status.expire_at = Some(Timestamp(1));
        check_concerned(None, Some(&pending), &[]);
        check_concerned(Some(&pending), Some(&scheduled), &[("n1", 7)]);
        check_concerned(Some(&scheduled), Some(&running), &[]);
        check_concerned(Some(&running), Some(&longer), &[("n1", 7)]);
        check_concerned(Some(&running), Some(&failed), &[("n1", 7)]);
        check_concerned(Some(&running), Some(&elsewhere), &[("n1", 7), ("n2", 7)]);
        check_concerned(Some(&running), Some(&pending), &[("n1", 7)]);
        check_concerned(Some(&running), Some(&replaced), &[("n1", 7), ("n1", 8)]);
        check_concerned(Some(&failed), None, &[("n1", 7)]);
    }

    #[test]
    fn remaining_time_is_counted_from_now_and_never_reads_as_endless() {
        let mut sandbox = sandbox("s", 7, Phase::Running, Some("n1"));
        let mut check = |expire_at: Option<u64>, expected: u64| {
            sandbox.status.expire_at = expire_at.map(Timestamp);
            assert_eq!(
                message(&sandbox, Timestamp(1_000)).ttl_remaining_ms,
                expected,
                "{expire_at:?}"
            );
        };
        check(None, 0);
        check(Some(5_000), 4_000);
        check(Some(1_000), 1);
        check(Some(1), 1);
    }
}

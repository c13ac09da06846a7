//! What an agent says of sandboxes: checked where it enters, and what its inventory means for sandboxes that the
//! cluster believes to be there. Pure. Called by `stream`.

use proto::convert::ConvertError;
use proto::id::{NodeId, SandboxId, Uid};
use proto::object::Sandbox;
use proto::status::{ContainerStatus, Phase, Reason};
use proto::wire;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Longest message of a report: shown to people, kept in every replica.
const MAX_MESSAGE: usize = 2_048;
/// Told of a running sandbox that is not on its node any more.
const VANISHED: &str = "its node knows nothing of it any more: it was restarted, or has lost its state";

/// Why a report is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("sandbox_id: `{0}` is no id")]
    Id(String),
    #[error("phase: an agent can't say {0:?}")]
    Phase(wire::Phase),
    #[error("ip: `{0}` is no address")]
    Address(String),
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

/// Checks everything that the replicated state will read of it, and bounds its message.
///
/// # Errors
/// [`ReportError`], naming the field.
pub(super) fn check(mut report: wire::SandboxReport) -> Result<wire::SandboxReport, ReportError> {
    if report.sandbox_id.parse::<SandboxId>().is_err() {
        return Err(ReportError::Id(report.sandbox_id));
    }
    match report.phase() {
        wire::Phase::Scheduled
        | wire::Phase::Running
        | wire::Phase::Succeeded
        | wire::Phase::Failed
        | wire::Phase::Deleting => {}
        phase @ (wire::Phase::Unspecified | wire::Phase::Pending) => return Err(ReportError::Phase(phase)),
    }
    if wire::Reason::try_from(report.reason).is_err() {
        let value = report.reason;
        return Err(ConvertError::Unknown {
            field: "reason",
            value,
        }
        .into());
    }
    if !report.ip.is_empty() && report.ip.parse::<IpAddr>().is_err() {
        return Err(ReportError::Address(report.ip));
    }
    for container in &report.containers {
        ContainerStatus::try_from(container.clone())?;
    }
    if report.message.len() > MAX_MESSAGE {
        let whole = (0..=MAX_MESSAGE)
            .rev()
            .find(|end| report.message.is_char_boundary(*end));
        report.message.truncate(whole.unwrap_or_default());
    }
    Ok(report)
}

/// Reports that wait to be proposed: the newest of each sandbox.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<Uid, wire::SandboxReport>);

impl Pending {
    pub(super) fn put(&mut self, report: wire::SandboxReport) {
        self.0.insert(Uid(report.uid), report);
    }

    /// Puts back what could not be proposed, where nothing newer came meanwhile.
    pub(super) fn put_back(&mut self, reports: Vec<wire::SandboxReport>) {
        for report in reports {
            self.0.entry(Uid(report.uid)).or_insert(report);
        }
    }

    /// At most `limit` of them.
    pub(super) fn take(&mut self, limit: usize) -> Vec<wire::SandboxReport> {
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some((_, report)) = self.0.pop_first()
        {
            taken.push(report);
        }
        taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether the state would learn anything from what the agent of `node` says of `sandbox`.
pub(super) fn is_news(sandbox: &Sandbox, node: &NodeId, report: &wire::SandboxReport) -> bool {
    let status = &sandbox.status;
    if sandbox.uid.0 != report.uid || status.node_name.as_ref() != Some(node) {
        return false;
    }
    match status.phase {
        Phase::Deleting => report.phase() == wire::Phase::Deleting,
        Phase::Pending | Phase::Scheduled | Phase::Running | Phase::Succeeded | Phase::Failed => {
            let known = wire::SandboxStatus::from(status);
            (
                known.phase,
                known.reason,
                &known.last_error,
                &known.ip,
                &known.containers,
                &known.timings_ms,
            ) != (
                report.phase,
                report.reason,
                &report.message,
                &report.ip,
                &report.containers,
                &report.timings_ms,
            )
        }
    }
}

/// "Nothing of it is there": what an agent would say of a sandbox that it has never heard of.
pub(super) fn gone(sandbox: &Sandbox) -> wire::SandboxReport {
    wire::SandboxReport {
        sandbox_id: sandbox.id.to_string(),
        uid: sandbox.uid.0,
        phase: wire::Phase::Deleting.into(),
        ..Default::default()
    }
}

/// What the inventory of an agent that has just come says beyond its own words: of sandboxes that the cluster has
/// `placed` on its node and that are not there, running ones have ended and deleted ones are gone. One that is
/// merely Scheduled may never have reached the node.
pub(super) fn missing<'a>(
    placed: impl Iterator<Item = &'a Sandbox>,
    node: &NodeId,
    inventory: &BTreeSet<Uid>,
) -> Vec<wire::SandboxReport> {
    placed
        .filter(|s| s.status.node_name.as_ref() == Some(node) && !inventory.contains(&s.uid))
        .filter_map(|sandbox| match sandbox.status.phase {
            Phase::Running => Some(wire::SandboxReport {
                phase: wire::Phase::Failed.into(),
                reason: wire::Reason::from(Reason::AgentError).into(),
                message: VANISHED.to_owned(),
                ..gone(sandbox)
            }),
            Phase::Deleting => Some(gone(sandbox)),
            Phase::Pending | Phase::Scheduled | Phase::Succeeded | Phase::Failed => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sample::{node, sandbox};

    fn running() -> wire::SandboxReport {
        wire::SandboxReport {
            sandbox_id: "s".to_owned(),
            uid: 7,
            phase: wire::Phase::Running.into(),
            ip: "10.89.0.1".to_owned(),
            ..Default::default()
        }
    }

    #[track_caller]
    fn check_refused(edit: impl FnOnce(&mut wire::SandboxReport), part: &str) {
        let mut report = running();
        edit(&mut report);
        let error = check(report).expect_err("it is malformed").to_string();
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }

    #[test]
    fn malformed_report_is_refused_with_its_field() {
        check(running()).expect("it is good");
        check_refused(|r| r.sandbox_id = "..".to_owned(), "sandbox_id");
        check_refused(|r| r.phase = wire::Phase::Pending.into(), "phase");
        check_refused(|r| r.phase = 99, "phase");
        check_refused(|r| r.reason = 99, "reason");
        check_refused(|r| r.ip = "here".to_owned(), "ip");
        check_refused(
            |r| r.containers.push(wire::ContainerStatus::default()),
            "containers.name",
        );
    }

    #[test]
    fn long_message_is_cut_at_a_character() {
        let mut report = running();
        report.message = "é".repeat(MAX_MESSAGE);
        let message = check(report).expect("it is good").message;
        assert_eq!(message.len(), MAX_MESSAGE);
    }

    #[test]
    fn newer_report_replaces_the_older_also_when_that_one_comes_back() {
        let mut pending = Pending::default();
        pending.put(running());
        let taken = pending.take(10);
        let mut ended = running();
        ended.phase = wire::Phase::Succeeded.into();
        pending.put(ended.clone());
        pending.put_back(taken);
        assert_eq!(pending.take(10), [ended]);
    }

    #[track_caller]
    fn check_missing(phase: Phase, there: bool, expected: Option<wire::Phase>) {
        let sandbox = sandbox("s", 7, phase, Some("n1"));
        let inventory = if there {
            BTreeSet::from([Uid(7)])
        } else {
            BTreeSet::new()
        };
        let reports = missing([&sandbox].into_iter(), &node("n1"), &inventory);
        let phases: Vec<wire::Phase> = reports.iter().map(wire::SandboxReport::phase).collect();
        assert_eq!(
            phases,
            expected.into_iter().collect::<Vec<_>>(),
            "{phase}, there: {there}"
        );
    }

    #[test]
    fn what_a_node_has_lost_has_ended_or_is_gone() {
        check_missing(Phase::Running, false, Some(wire::Phase::Failed));
        check_missing(Phase::Running, true, None);
        check_missing(Phase::Deleting, false, Some(wire::Phase::Deleting));
        check_missing(Phase::Deleting, true, None);
        check_missing(Phase::Scheduled, false, None);
        check_missing(Phase::Failed, false, None);
    }
}

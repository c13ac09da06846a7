//! What has happened to sandboxes and nodes, derived from how each change finds and leaves them: an event costs no entry
//! of the log. Called by the transaction, the one door.

use proto::event::Event;
use proto::object::{Node, Sandbox};
use proto::status::{NodeState, Phase, Reason, SandboxStatus};
use proto::units::Timestamp;

/// The stage of making a sandbox after which its images are on the node.
const PULLED: &str = "pull";

/// Adds to `after` what has made it of `before`. `evicting`: its node is being drained.
pub(super) fn note_sandbox(before: Option<&Sandbox>, after: &mut Sandbox, evicting: bool, now: Timestamp) {
    let mut events = std::mem::take(&mut after.events);
    let mut note = |reason: &str, message: &str| Event::note(&mut events, reason, message, now);
    let status = &after.status;
    let Some(before) = before else {
        match status.earlier_placements.last() {
            // Another one in the place of one that was given up.
            Some(earlier) => {
                let gone = end_reason(earlier.reason, evicting);
                note(gone, &format!("node {}: {}", earlier.node_name, earlier.message));
                note("Rescheduled", "it waits for another node");
            }
            None => note("Created", ""),
        }
        after.events = events;
        return;
    };
    if before.labels != after.labels || before.spec != after.spec {
        note("Configured", "");
    }
    if let Some(ms) = pulled(&before.status, status) {
        note("Pulled", &format!("its images were on the node after {ms} ms"));
    }
    if before.status.phase == status.phase {
        if status.phase == Phase::Pending
            && !status.last_error.is_empty()
            && before.status.last_error != status.last_error
        {
            note("Unschedulable", &status.last_error);
        }
        after.events = events;
        return;
    }
    let node = status.node_name.as_ref().map(ToString::to_string);
    let node = node.unwrap_or_default();
    match status.phase {
        Phase::Pending => note("Rescheduled", &status.last_error),
        Phase::Scheduled => note("Scheduled", &format!("placed on node {node}")),
        Phase::Running => note("Started", &format!("it runs on node {node}")),
        Phase::Succeeded => note("Succeeded", "every container ended with 0"),
        Phase::Failed => {
            let reason = status.reason.unwrap_or(Reason::AgentError);
            let message = match reason {
                Reason::NodeLost => status.last_error.clone(),
                reason => format!("{reason}: {}", status.last_error),
            };
            note(end_reason(reason, evicting), &message);
        }
        Phase::Deleting => note("Deleting", ""),
    }
    after.events = events;
}

fn end_reason(reason: Reason, evicting: bool) -> &'static str {
    match reason {
        Reason::NodeLost if evicting => "Evicted",
        Reason::NodeLost => "NodeLost",
        Reason::ImagePullFailed
        | Reason::StartFailed
        | Reason::ProbeFailed
        | Reason::OomKilled
        | Reason::ContainerExited
        | Reason::AgentError => "Failed",
    }
}

/// How long it took, where it is news.
fn pulled(before: &SandboxStatus, after: &SandboxStatus) -> Option<u64> {
    let took = after.timings.get(PULLED)?;
    (!before.timings.contains_key(PULLED)).then_some(*took)
}

/// Adds to `after` what has made it of `before`.
pub(super) fn note_node(before: Option<&Node>, after: &mut Node, now: Timestamp) {
    let mut events = std::mem::take(&mut after.events);
    let mut note = |reason: &str, message: &str| Event::note(&mut events, reason, message, now);
    let was = before.map_or(NodeState::Unknown, |node| node.state);
    if before.is_none() && after.state == NodeState::Unknown {
        note("Created", "by a manifest; no agent was here yet");
    }
    if was != after.state {
        match (was, after.state) {
            (NodeState::Unknown, NodeState::Ready) => note("Registered", "its agent has come"),
            (_, NodeState::Ready) => note("Ready", "its agent is heard again"),
            (_, NodeState::NotReady) => note("NotReady", &after.last_error),
            (_, NodeState::Lost) => note("Lost", &after.last_error),
            (_, NodeState::Unknown) => {}
        }
    }
    if let Some(before) = before {
        let booted = |node: &Node| node.report.as_ref().map(|report| report.boot_id.clone());
        if booted(before).is_some() && booted(before) != booted(after) {
            note("Rebooted", "");
        }
        match (before.spec.unschedulable, after.spec.unschedulable) {
            (false, true) => note("Cordoned", "it takes no new sandboxes"),
            (true, false) => note("Uncordoned", ""),
            (true, true) | (false, false) => {}
        }
        match (before.drain_until, after.drain_until) {
            (None, Some(_)) => note(
                "Draining",
                "what may move leaves, the rest has until the deadline",
            ),
            (Some(_), None) if after.spec.unschedulable => {
                note(
                    "Drained",
                    "the time of what was left is over, or the drain was called off",
                );
            }
            (Some(_) | None, Some(_) | None) => {}
        }
    }
    after.events = events;
}

//! What commands do to sandboxes.

use super::command::{Explanation, Report};
use super::placement::{self, HOST_PORTS, Placement};
use super::transaction::Transaction;
use super::{Rejection, Response, State, Usage};
use proto::budget;
use proto::id::{NodeId, SandboxId, Uid};
use proto::object::Sandbox;
use proto::spec::{Labels, OnNodeLoss, SandboxSpec};
use proto::status::{Condition, EarlierPlacement, Phase, Reason, SandboxStatus};
use proto::units::Timestamp;
use proto::wire::object::Object;
use proto::wire::{self, Outcome};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Nodes that may fail a sandbox of their own accord before it fails. By then it is hardly the nodes.
pub(super) const MAX_PLACEMENTS: usize = 3;

pub(super) fn apply(
    to: &mut Transaction<'_>,
    id: SandboxId,
    labels: Labels,
    spec: SandboxSpec,
    replace: bool,
) -> Result<Response, Rejection> {
    let Some(old) = to.state().sandbox(&id).cloned() else {
        check_policy(to.state(), &spec)?;
        let made = create(to, id, labels, spec);
        return Ok(respond(Outcome::Created, &made));
    };
    let fields = immutable_differences(&old.spec, &spec);
    if old.status.phase == Phase::Deleting && !replace {
        return Err(Rejection::conflict(format!(
            "sandbox {id} is being deleted: wait until it is gone, or replace it"
        )));
    }
    if !fields.is_empty() || old.status.phase == Phase::Deleting {
        if !replace {
            return Err(Rejection {
                fields,
                ..Rejection::conflict(format!("sandbox {id} is there with another spec"))
            });
        }
        check_policy(to.state(), &spec)?;
        begin_deletion(to, &old);
        let made = create(to, id, labels, spec);
        return Ok(respond(Outcome::Replaced, &made));
    }
    if old.labels == labels && old.spec == spec {
        return Ok(respond(Outcome::Unchanged, &old));
    }
    let mut sandbox = Sandbox::clone(&old);
    sandbox.labels = labels;
    sandbox.status.expire_at = expire_at(sandbox.created_at, &spec);
    sandbox.spec = spec;
    let changed = to.put_sandbox(sandbox);
    Ok(respond(Outcome::Configured, &changed))
}

/// What is there already goes on, whatever the policy has become.
fn check_policy(state: &State, spec: &SandboxSpec) -> Result<(), Rejection> {
    state
        .policy()
        .check(spec)
        .map_err(|faults| Rejection::new(wire::rejected::Code::Invalid, faults.to_string()))
}

/// Paths of what differs and must not, whole items of lists; all but `ttl_seconds` is immutable.
fn immutable_differences(old: &SandboxSpec, new: &SandboxSpec) -> Vec<String> {
    let mut paths = Vec::new();
    let mut differ = |same: bool, path: &str| {
        if !same {
            paths.push(format!("spec.{path}"));
        }
    };
    differ(old.egress == new.egress, "egress");
    differ(old.egress_allow == new.egress_allow, "egress_allow");
    differ(old.node_selector == new.node_selector, "node_selector");
    differ(old.runtime == new.runtime, "runtime");
    differ(old.priority == new.priority, "priority");
    differ(old.on_node_loss == new.on_node_loss, "on_node_loss");
    differ(old.ports == new.ports, "ports");
    differ(old.volumes == new.volumes, "volumes");
    differ(old.readiness_probe == new.readiness_probe, "readiness_probe");
    differ(old.containers.len() == new.containers.len(), "containers");
    if old.containers.len() != new.containers.len() {
        return paths;
    }
    for (i, (old, new)) in old.containers.iter().zip(&new.containers).enumerate() {
        let mut differ = |same: bool, field: &str| {
            if !same {
                paths.push(format!("spec.containers[{i}].{field}"));
            }
        };
        differ(old.name == new.name, "name");
        differ(old.image == new.image, "image");
        differ(old.args == new.args, "args");
        differ(old.env == new.env, "env");
        differ(old.work_dir == new.work_dir, "work_dir");
        differ(old.volume_mounts == new.volume_mounts, "volume_mounts");
        differ(old.cap_add == new.cap_add, "cap_add");
        differ(old.cap_drop == new.cap_drop, "cap_drop");
        differ(old.security_opt == new.security_opt, "security_opt");
        differ(old.read_only == new.read_only, "read_only");
        differ(old.tmpfs == new.tmpfs, "tmpfs");
        differ(old.resource == new.resource, "resource");
    }
    paths
}

fn create(to: &mut Transaction<'_>, id: SandboxId, labels: Labels, spec: SandboxSpec) -> Arc<Sandbox> {
    let uid = to.new_uid();
    let now = to.stamp.now;
    let trace_id = to.trace_id.clone();
    to.put_sandbox(Sandbox {
        id,
        uid,
        labels,
        status: SandboxStatus {
            expire_at: expire_at(now, &spec),
            ..SandboxStatus::default()
        },
        spec,
        created_at: now,
        updated_at: now,
        resource_version: 0,
        events: Vec::new(),
        trace_id,
    })
}

fn expire_at(created_at: Timestamp, spec: &SandboxSpec) -> Option<Timestamp> {
    (spec.ttl_seconds > 0).then(|| created_at.plus(Duration::from_secs(spec.ttl_seconds)))
}

fn respond(outcome: Outcome, sandbox: &Arc<Sandbox>) -> Response {
    Response {
        outcome,
        object: Some(Object::Sandbox(sandbox.as_ref().into())),
    }
}

pub(super) fn delete(to: &mut Transaction<'_>, id: &str) -> Result<Response, Rejection> {
    let sandbox = id.parse().ok().and_then(|id| to.state().sandbox(&id).cloned());
    let sandbox = sandbox.ok_or_else(|| Rejection::not_found("sandbox", id))?;
    begin_deletion(to, &sandbox);
    Ok(respond(Outcome::Deleted, &sandbox))
}

/// Deleting where a node must clear it away first, else gone at once.
fn begin_deletion(to: &mut Transaction<'_>, sandbox: &Sandbox) {
    let held = sandbox
        .status
        .node_name
        .as_ref()
        .is_some_and(|n| holds(to.state(), n));
    if !held {
        to.remove_sandbox(sandbox.uid);
    } else if sandbox.status.phase != Phase::Deleting {
        let mut sandbox = sandbox.clone();
        sandbox.status.phase = Phase::Deleting;
        to.put_sandbox(sandbox);
    }
}

/// Whether the node will be heard again: a lost one was given up, with all that it held.
fn holds(state: &State, node: &NodeId) -> bool {
    use proto::status::NodeState::{Lost, NotReady, Ready, Unknown};
    match state.node(node).map(|n| n.state) {
        Some(Ready | NotReady) => true,
        Some(Lost | Unknown) | None => false,
    }
}

/// Places those whose placement holds. The others stay Pending: whoever planned them sees that.
pub(super) fn place(to: &mut Transaction<'_>, placements: Vec<Placement>) -> Result<Response, Rejection> {
    let mut refused = None;
    let mut placed = 0;
    for placement in placements {
        match check(to.state(), &placement) {
            Err(rejection) => refused = Some(rejection),
            Ok(sandbox) => {
                let mut sandbox = Sandbox::clone(sandbox);
                sandbox.status.phase = Phase::Scheduled;
                sandbox.status.last_error = String::new();
                sandbox.status.node_name = Some(placement.node);
                sandbox.status.assigned_ports = placement.ports;
                sandbox
                    .status
                    .set_condition(Condition::SCHEDULED, true, "", to.stamp.now);
                to.put_sandbox(sandbox);
                placed += 1;
            }
        }
    }
    match refused {
        Some(rejection) if placed == 0 => Err(rejection),
        Some(_) | None => Ok(accepted()),
    }
}

fn accepted() -> Response {
    Response {
        outcome: Outcome::Accepted,
        object: None,
    }
}

/// A plan may be of a leader that was deposed, or older than what it was made from.
fn check<'a>(state: &'a State, placement: &Placement) -> Result<&'a Arc<Sandbox>, Rejection> {
    let uid = placement.uid;
    let sandbox = state
        .sandbox_by_uid(uid)
        .filter(|sandbox| sandbox.status.phase == Phase::Pending)
        .ok_or_else(|| Rejection::stale(format!("no sandbox {uid} waits for a node")))?;
    let refuse = |why: &dyn std::fmt::Display| {
        Rejection::stale(format!(
            "sandbox {} does not fit on {}: {why}",
            sandbox.id, placement.node
        ))
    };
    if state.uids_of(&sandbox.id).next() != Some(uid) {
        return Err(refuse(&"the one that it replaces is not gone yet"));
    }
    let node = state
        .node(&placement.node)
        .ok_or_else(|| refuse(&"it is not there"))?;
    placement::suits(node, sandbox).map_err(|why| refuse(&why))?;
    let nothing = Usage::default();
    let usage = state
        .placed
        .get(&node.id)
        .map_or(&nothing, |placed| &placed.usage);
    let free = placement::free(node, usage.cpu, usage.memory);
    placement::fits(budget::demand(&sandbox.spec), free).map_err(|why| refuse(&why))?;
    let wanted: Vec<_> = sandbox
        .spec
        .ports
        .iter()
        .map(|p| (p.container_port, p.protocol))
        .collect();
    let given: Vec<_> = placement
        .ports
        .iter()
        .map(|p| (p.container_port, p.protocol))
        .collect();
    if wanted != given {
        return Err(refuse(&"its ports are others"));
    }
    let mut taken = BTreeSet::new();
    for port in &placement.ports {
        let key = (port.protocol, port.host_port);
        let refuse = |why| refuse(&format!("{} port {} {why}", port.protocol, port.host_port));
        if !HOST_PORTS.contains(&port.host_port) || usage.ports.contains(&key) || !taken.insert(key) {
            return Err(refuse("is not free"));
        }
        if state.resting.contains(&node.id, key) {
            return Err(refuse("was in use a moment ago"));
        }
    }
    Ok(sandbox)
}

/// Takes over what an agent observes of its own sandboxes; all else in `reports` is of the past.
pub(super) fn report(
    to: &mut Transaction<'_>,
    node: &NodeId,
    reports: Vec<Report>,
) -> Result<Response, Rejection> {
    for report in reports {
        let known = to.state().sandbox_by_uid(report.uid).cloned();
        let own = known.filter(|s| s.id == report.id && s.status.node_name.as_ref() == Some(node));
        if let Some(sandbox) = own {
            take_over(to, &sandbox, report);
        }
    }
    Ok(accepted())
}

fn take_over(to: &mut Transaction<'_>, old: &Sandbox, report: Report) {
    let gone = report.phase == Phase::Deleting;
    match old.status.phase {
        Phase::Deleting if gone => to.remove_sandbox(old.uid),
        Phase::Scheduled | Phase::Running if gone => {
            let mut sandbox = old.clone();
            let message = "the node has lost it, with all that it had".to_owned();
            end(&mut sandbox, Reason::AgentError, message, to.stamp.now);
            to.put_sandbox(sandbox);
        }
        // Ended by its node alone, by its lease or in a restart: nobody need call the node lost for that.
        Phase::Scheduled | Phase::Running
            if (report.phase, report.reason) == (Phase::Failed, Some(Reason::NodeLost))
                && old.spec.on_node_loss == OnNodeLoss::Reschedule =>
        {
            place_again(to, old, Reason::NodeLost, report.message);
            to.remove_sandbox(old.uid);
        }
        // A failure of the node's own, before any of the user's code has run: another may do better.
        Phase::Scheduled if is_to_be_retried(old, &report) => {
            place_again(to, old, Reason::AgentError, report.message);
            begin_deletion(to, old);
        }
        Phase::Scheduled | Phase::Running if rank(report.phase) >= rank(old.status.phase) => {
            let mut sandbox = old.clone();
            let status = &mut sandbox.status;
            status.phase = report.phase;
            // A failure says why; one without a reason is the agent's own.
            status.reason =
                (report.phase == Phase::Failed).then(|| report.reason.unwrap_or(Reason::AgentError));
            status.last_error = report.message;
            status.ip = report.ip;
            status.containers = report.containers;
            status.timings = report.timings;
            if status.phase.has_ended() {
                status.ended_at = Some(to.stamp.now);
            }
            note_readiness(status, to.stamp.now);
            if sandbox.status != old.status {
                to.put_sandbox(sandbox);
            }
        }
        // Decided, or reported late.
        Phase::Pending
        | Phase::Scheduled
        | Phase::Running
        | Phase::Succeeded
        | Phase::Failed
        | Phase::Deleting => {}
    }
}

/// Whether a node has failed a sandbox that another one may take. What a user's code may have begun is never begun
/// a second time.
fn is_to_be_retried(old: &Sandbox, report: &Report) -> bool {
    let failed = report.phase == Phase::Failed && report.reason == Some(Reason::AgentError);
    let untouched = report
        .containers
        .iter()
        .all(|container| container.started_at.is_none());
    let failures = old.status.earlier_placements.iter();
    let failures = failures
        .filter(|earlier| earlier.reason == Reason::AgentError)
        .count();
    failed && untouched && failures + 1 < MAX_PLACEMENTS
}

/// A sandbox goes through its phases in this order; `None` of [`Phase::Pending`], which no agent can tell.
fn rank(phase: Phase) -> Option<u8> {
    match phase {
        Phase::Pending | Phase::Deleting => None,
        Phase::Scheduled => Some(0),
        Phase::Running => Some(1),
        Phase::Succeeded | Phase::Failed => Some(2),
    }
}

fn end(sandbox: &mut Sandbox, reason: Reason, message: String, now: Timestamp) {
    sandbox.status.phase = Phase::Failed;
    sandbox.status.reason = Some(reason);
    sandbox.status.last_error = message;
    sandbox.status.ended_at = Some(now);
    note_readiness(&mut sandbox.status, now);
}

/// Nothing is said of one that is not ready yet.
fn note_readiness(status: &mut SandboxStatus, now: Timestamp) {
    let message = status.last_error.clone();
    match status.phase {
        Phase::Running => status.set_condition(Condition::READY, true, "", now),
        Phase::Succeeded | Phase::Failed => status.set_condition(Condition::READY, false, &message, now),
        Phase::Pending | Phase::Scheduled | Phase::Deleting => {}
    }
}

/// Deletes what has outlived its TTL, and as an ended one `retention`. Who asks may be early or late: the
/// entry's time decides.
pub(super) fn expire(
    to: &mut Transaction<'_>,
    sandboxes: Vec<Uid>,
    retention: Duration,
) -> Result<Response, Rejection> {
    for uid in sandboxes {
        let Some(sandbox) = to.state().sandbox_by_uid(uid).cloned() else {
            continue;
        };
        if expires_at(&sandbox, retention).is_some_and(|at| at <= to.stamp.now) {
            begin_deletion(to, &sandbox);
        }
    }
    Ok(accepted())
}

/// When a sandbox is to be deleted without being asked for; `None`: never, or it is being deleted.
#[must_use]
pub fn expires_at(sandbox: &Sandbox, retention: Duration) -> Option<Timestamp> {
    match (sandbox.status.phase, sandbox.status.ended_at) {
        (Phase::Deleting, _) => None,
        (_, Some(ended)) => Some(ended.plus(retention)),
        (_, None) => sandbox.status.expire_at,
    }
}

pub(super) fn explain(
    to: &mut Transaction<'_>,
    explanations: Vec<Explanation>,
) -> Result<Response, Rejection> {
    for explanation in explanations {
        let waiting = to.state().sandbox_by_uid(explanation.uid).cloned();
        let waiting = waiting
            .filter(|s| s.status.phase == Phase::Pending && s.status.last_error != explanation.message);
        if let Some(sandbox) = waiting {
            let mut sandbox = Sandbox::clone(&sandbox);
            sandbox
                .status
                .set_condition(Condition::SCHEDULED, false, &explanation.message, to.stamp.now);
            sandbox.status.last_error = explanation.message;
            to.put_sandbox(sandbox);
        }
    }
    Ok(accepted())
}

/// Gives up all that a node holds. `reschedule`: what wishes for it waits for another node. Only right where the old
/// copy is known to have ended.
pub(super) fn give_up(to: &mut Transaction<'_>, node: &NodeId, reschedule: bool, why: &str) {
    let held: Vec<Arc<Sandbox>> = to.state().sandboxes_on(node).cloned().collect();
    for sandbox in held {
        match sandbox.status.phase {
            Phase::Deleting => to.remove_sandbox(sandbox.uid),
            Phase::Scheduled | Phase::Running
                if reschedule && sandbox.spec.on_node_loss == OnNodeLoss::Reschedule =>
            {
                place_again(to, &sandbox, Reason::NodeLost, why.to_owned());
                to.remove_sandbox(sandbox.uid);
            }
            Phase::Scheduled | Phase::Running => {
                let mut sandbox = Sandbox::clone(&sandbox);
                end(&mut sandbox, Reason::NodeLost, why.to_owned(), to.stamp.now);
                to.put_sandbox(sandbox);
            }
            Phase::Pending | Phase::Succeeded | Phase::Failed => {}
        }
    }
}

/// Places elsewhere what wishes for it, of a node that still holds it: the new one waits until the old one is gone.
pub(super) fn move_away(to: &mut Transaction<'_>, node: &NodeId, why: &str) {
    for sandbox in live_on(to.state(), node) {
        if sandbox.spec.on_node_loss == OnNodeLoss::Reschedule {
            place_again(to, &sandbox, Reason::NodeLost, why.to_owned());
            begin_deletion(to, &sandbox);
        }
    }
}

/// Ends whatever still lives on a node.
pub(super) fn end_all(to: &mut Transaction<'_>, node: &NodeId, why: &str) {
    for sandbox in live_on(to.state(), node) {
        let mut sandbox = Sandbox::clone(&sandbox);
        end(&mut sandbox, Reason::NodeLost, why.to_owned(), to.stamp.now);
        to.put_sandbox(sandbox);
    }
}

fn live_on(state: &State, node: &NodeId) -> Vec<Arc<Sandbox>> {
    let live = |s: &&Arc<Sandbox>| matches!(s.status.phase, Phase::Scheduled | Phase::Running);
    state.sandboxes_on(node).filter(live).cloned().collect()
}

/// Under a new uid, since the old one names what was made on the old node.
fn place_again(to: &mut Transaction<'_>, old: &Sandbox, reason: Reason, why: String) {
    let mut earlier_placements = old.status.earlier_placements.clone();
    if earlier_placements.len() >= EarlierPlacement::KEPT {
        earlier_placements.remove(0);
    }
    earlier_placements.extend(old.status.node_name.clone().map(|node_name| EarlierPlacement {
        node_name,
        ended_at: to.stamp.now,
        reason,
        message: why.clone(),
    }));
    let uid = to.new_uid();
    let sandbox = Sandbox {
        uid,
        status: SandboxStatus {
            last_error: why,
            expire_at: old.status.expire_at,
            earlier_placements,
            ..SandboxStatus::default()
        },
        ..old.clone()
    };
    to.put_sandbox(sandbox);
}

//! What commands do to nodes.

use super::placement::taken_node;
use super::transaction::Transaction;
use super::{Rejection, Response, sandbox};
use proto::id::NodeId;
use proto::object::Node;
use proto::spec::{Labels, NodeSpec};
use proto::status::{NodeReport, NodeState};
use proto::wire::Outcome;
use proto::wire::object::Object;
use std::sync::Arc;

/// By a manifest, which may come before or after the agent.
pub(super) fn apply(
    to: &mut Transaction<'_>,
    id: NodeId,
    labels: Labels,
    spec: NodeSpec,
) -> Result<Response, Rejection> {
    let old = to.state().node(&id).cloned();
    let (outcome, node) = match old {
        Some(old) if old.labels == labels && old.spec == spec => (Outcome::Unchanged, old),
        Some(old) => {
            let mut node = Node::clone(&old);
            node.labels = labels;
            node.spec = spec;
            // Who makes it schedulable again calls a drain off.
            node.drain_until = node.drain_until.filter(|_| node.spec.unschedulable);
            (Outcome::Configured, to.put_node(node))
        }
        None => {
            let mut node = unknown(to, id);
            node.labels = labels;
            node.spec = spec;
            (Outcome::Created, to.put_node(node))
        }
    };
    Ok(respond(outcome, &node))
}

fn unknown(to: &Transaction<'_>, id: NodeId) -> Node {
    Node {
        id,
        labels: Labels::new(),
        reported_labels: Labels::new(),
        spec: NodeSpec::default(),
        state: NodeState::Unknown,
        last_error: String::new(),
        report: None,
        created_at: to.stamp.now,
        updated_at: to.stamp.now,
        resource_version: 0,
        drain_until: None,
        events: Vec::new(),
    }
}

pub(super) fn respond(outcome: Outcome, node: &Arc<Node>) -> Response {
    Response {
        outcome,
        object: Some(Object::Node(node.as_ref().into())),
    }
}

pub(super) fn register(
    to: &mut Transaction<'_>,
    id: NodeId,
    labels: Labels,
    report: NodeReport,
) -> Result<Response, Rejection> {
    let old = to.state().node(&id).cloned();
    let mut node = match &old {
        Some(old) => Node::clone(old),
        None => unknown(to, id),
    };
    node.reported_labels = labels;
    node.report = Some(report);
    node.state = NodeState::Ready;
    node.last_error = String::new();
    let node = match old {
        Some(old) if *old == node => old,
        Some(_) | None => to.put_node(node),
    };
    Ok(respond(Outcome::Accepted, &node))
}

pub(super) fn set_state(
    to: &mut Transaction<'_>,
    id: &NodeId,
    state: NodeState,
    reason: String,
) -> Result<Response, Rejection> {
    let old = to.state().node(id).cloned();
    let old = old.ok_or_else(|| Rejection::not_found("node", id.as_str()))?;
    if old.state == NodeState::Unknown || state == NodeState::Unknown {
        // Its sandboxes could neither be kept nor given up.
        return Err(Rejection::conflict(format!(
            "node {id} is {} and can't become {state}: it is Unknown until its agent registers, and never again",
            old.state
        )));
    }
    if old.state == state {
        return Ok(respond(Outcome::Unchanged, &old));
    }
    let mut node = Node::clone(&old);
    node.state = state;
    node.last_error = reason;
    let node = to.put_node(node);
    if state == NodeState::Lost {
        // Its agent has ended them by its own clock, whose lease began earlier than ours.
        let why = format!("the node {id} was not heard for longer than its lease");
        sandbox::give_up(to, id, true, &why);
    }
    Ok(respond(Outcome::Accepted, &node))
}

pub(super) fn delete(to: &mut Transaction<'_>, id: &str, force: bool) -> Result<Response, Rejection> {
    let node = id
        .parse()
        .ok()
        .and_then(|id: NodeId| to.state().node(&id).cloned());
    let node = node.ok_or_else(|| Rejection::not_found("node", id))?;
    let placed = to
        .state()
        .sandboxes_on(&node.id)
        .filter(|s| taken_node(s).is_some())
        .count();
    if placed > 0 && !force {
        return Err(Rejection::conflict(format!(
            "{placed} sandboxes are placed on node {id}: delete them first, or give them up with force"
        )));
    }
    // Nobody knows whether its agent still runs them, so that none may be started elsewhere.
    let why = format!("the node {id} was deleted");
    sandbox::give_up(to, &node.id, false, &why);
    to.remove_node(&node.id);
    Ok(respond(Outcome::Deleted, &node))
}

//! Taking a node out of use, and back: what may be placed elsewhere leaves at once, all else has until the deadline to
//! end by itself.

use super::transaction::Transaction;
use super::{Rejection, Response, node, sandbox};
use proto::id::NodeId;
use proto::object::Node;
use proto::wire::Outcome;
use std::time::Duration;

/// Cordons, with `drain` also empties, or else gives the node back to the scheduler. A drain under way is called off
/// where none is asked for.
pub(super) fn schedule(
    to: &mut Transaction<'_>,
    id: &NodeId,
    unschedulable: bool,
    drain: Option<Duration>,
) -> Result<Response, Rejection> {
    let old = to.state().node(id).cloned();
    let old = old.ok_or_else(|| Rejection::not_found("node", id.as_str()))?;
    let mut wanted = Node::clone(&old);
    wanted.spec.unschedulable = unschedulable;
    wanted.drain_until = drain.map(|time| to.stamp.now.plus(time));
    if wanted == *old {
        return Ok(node::respond(Outcome::Unchanged, &old));
    }
    let node = to.put_node(wanted);
    if drain.is_some() {
        to.evicting = true;
        sandbox::move_away(to, id, &format!("the node {id} is being drained"));
    }
    Ok(node::respond(Outcome::Configured, &node))
}

/// Gives up what is left once the deadline is over. Who asks may be early: the entry's time decides.
pub(super) fn end(to: &mut Transaction<'_>, id: &NodeId) -> Result<Response, Rejection> {
    let old = to.state().node(id).cloned();
    let old = old.ok_or_else(|| Rejection::not_found("node", id.as_str()))?;
    if old.drain_until.is_none_or(|until| until > to.stamp.now) {
        return Err(Rejection::stale(format!("no drain of node {id} is over")));
    }
    let mut node = Node::clone(&old);
    node.drain_until = None;
    let node = to.put_node(node);
    to.evicting = true;
    sandbox::end_all(
        to,
        id,
        &format!("the node {id} was drained, and its time to end was over"),
    );
    Ok(node::respond(Outcome::Accepted, &node))
}

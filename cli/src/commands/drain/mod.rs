//! `sbxctl cordon`, `uncordon` and `drain`: taking nodes out of use, and back.

use super::Tally;
use crate::args::{DrainArgs, NodesArgs};
use crate::client::{Change, Client};
use crate::failure::Failure;
use crate::invocation::Invocation;
use proto::object::Kind;
use proto::wire::{self, object::Object};
use std::collections::BTreeSet;
use std::time::Duration;

/// After the deadline an agent has to end what is left: how long that may take before something is wrong.
const GRACE: Duration = Duration::from_secs(120);

/// # Errors
/// [`Failure`]
pub async fn cordon(args: &NodesArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("cordon")?;
    set(args, true, None, "cordoned", invocation).await.map(drop)
}

/// # Errors
/// [`Failure`]
pub async fn uncordon(args: &NodesArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("uncordon")?;
    set(args, false, None, "uncordoned", invocation).await.map(drop)
}

/// # Errors
/// [`Failure`]
pub async fn run(args: &DrainArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("drain")?;
    let client = set(&args.nodes, true, Some(args.deadline), "draining", invocation).await?;
    if args.no_wait {
        return Ok(());
    }
    invocation.flush()?;
    let waited = args.deadline.saturating_add(GRACE);
    let mut left = Left::default();
    let emptied = left.wait(&client, &args.nodes.nodes, invocation);
    match tokio::time::timeout(waited, emptied).await {
        Ok(ended) => ended?,
        Err(_) => {
            return Err(Failure::TimedOut {
                what: "drained".to_owned(),
                waited,
                last: left.to_string(),
            });
        }
    }
    for node in &args.nodes.nodes {
        invocation.say(format_args!("node/{node} drained"))?;
    }
    Ok(())
}

/// Every node is tried.
async fn set(
    args: &NodesArgs,
    unschedulable: bool,
    drain: Option<Duration>,
    done: &str,
    invocation: &mut Invocation,
) -> Result<Client, Failure> {
    let client = invocation.client()?;
    let mut tally = Tally::default();
    for node in &args.nodes {
        let asked = client.schedule_node(node, unschedulable, drain).await;
        if tally.note(asked.map_err(Failure::from), invocation)?.is_some() {
            invocation.say(format_args!("node/{node} {done}"))?;
        }
    }
    tally.finish()?;
    Ok(client)
}

/// Between two looks at a node that clears away what was moved: an agent needs some ten milliseconds for that.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Sandboxes that are still on the nodes.
#[derive(Default)]
struct Left(BTreeSet<String>);

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.len() {
            1 => f.write_str("1 sandbox left"),
            left => write!(f, "{left} sandboxes left"),
        }
    }
}

impl Left {
    /// Until there are none; says how many whenever that changes.
    async fn wait(
        &mut self,
        client: &Client,
        nodes: &[String],
        invocation: &mut Invocation,
    ) -> Result<(), Failure> {
        let mut changes = client.watch(wire::WatchRequest {
            kind: wire::Kind::Sandbox.into(),
            ..Default::default()
        });
        let mut synced = false;
        loop {
            let before = self.0.len();
            match changes.next().await? {
                Change::Changed(object) => {
                    if let Some(Object::Sandbox(sandbox)) = object.object {
                        if lives_on(&sandbox, nodes) {
                            self.0.insert(sandbox.id);
                        } else {
                            self.0.remove(&sandbox.id);
                        }
                    }
                }
                Change::Deleted(object) => {
                    if let Some(Object::Sandbox(sandbox)) = object.object {
                        self.0.remove(&sandbox.id);
                    }
                }
                Change::Synced => {
                    synced = true;
                    if !self.0.is_empty() {
                        invocation.note(format_args!("{self}"));
                    }
                }
            }
            if synced && self.0.is_empty() {
                return cleared(client, nodes).await;
            }
            if synced && self.0.len() < before {
                invocation.note(format_args!("{self}"));
            }
        }
    }
}

/// Until the copies that have been placed elsewhere are gone as well: their ids stand for the new ones, so that no
/// change tells of them.
async fn cleared(client: &Client, nodes: &[String]) -> Result<(), Failure> {
    for id in nodes {
        while holds_any(&client.get(Kind::Node, id, false).await?) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

fn holds_any(object: &wire::Object) -> bool {
    match &object.object {
        Some(Object::Node(node)) => node.usage.is_some_and(|usage| usage.sandboxes > 0),
        Some(Object::Sandbox(_) | Object::External(_)) | None => false,
    }
}

fn lives_on(sandbox: &wire::Sandbox, nodes: &[String]) -> bool {
    let Some(status) = &sandbox.status else {
        return false;
    };
    let placed = nodes.contains(&status.node_name);
    placed && status.ended_at_ms == 0
}

//! `sbxctl cluster members | add | remove | promote | transfer-leader`.

use crate::args::{ClusterAddArgs, ClusterRemoveArgs, Format};
use crate::commands::Tally;
use crate::failure::Failure;
use crate::invocation::Invocation;
use crate::output;
use proto::document::ClusterDocument;
use proto::wire::{self, replica_progress::Stage};
use std::io::Write;

pub(super) async fn list(stale: bool, invocation: &mut Invocation) -> Result<(), Failure> {
    let cluster = ClusterDocument::from(invocation.client()?.cluster(stale).await?);
    let text = match invocation.format() {
        Format::Table | Format::Wide => output::members_table(&cluster),
        format @ (Format::Json | Format::Yaml) => output::document(&cluster, format)?,
    };
    invocation.write(text.as_bytes())
}

pub(super) async fn add(args: &ClusterAddArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("cluster add")?;
    let replica = &args.replica;
    let id = replica.id;
    let added = invocation
        .client()?
        .add_replica(id, &replica.peer, &replica.server, args.learner, tell(id))
        .await;
    added?;
    if args.learner {
        return invocation.say(format_args!("replica/{id} added as a learner"));
    }
    invocation.say(format_args!("replica/{id} added"))
}

pub(super) async fn promote(ids: &[u64], invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("cluster promote")?;
    let client = invocation.client()?;
    let mut tally = Tally::default();
    for id in ids.iter().copied() {
        let promoted = client.promote_replica(id, tell(id)).await;
        if tally.note(promoted.map_err(Failure::from), invocation)?.is_some() {
            invocation.say(format_args!("replica/{id} promoted"))?;
        }
    }
    tally.finish()
}

pub(super) async fn remove(args: &ClusterRemoveArgs, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("cluster remove")?;
    let client = invocation.client()?;
    let mut tally = Tally::default();
    for id in args.ids.iter().copied() {
        let removed = client.remove_replica(id, args.force).await;
        if tally.note(removed.map_err(Failure::from), invocation)?.is_some() {
            invocation.say(format_args!("replica/{id} removed"))?;
        }
    }
    tally.finish()
}

pub(super) async fn transfer(to: Option<u64>, invocation: &mut Invocation) -> Result<(), Failure> {
    invocation.refuse_format("cluster transfer-leader")?;
    let leader = invocation.client()?.transfer_leadership(to).await?;
    invocation.say(format_args!("replica/{leader} leads"))
}

/// Tells on stderr how a replica catches up: each stage once, and each further tenth of the log.
fn tell(id: u64) -> impl FnMut(&wire::ReplicaProgress) {
    let mut last = None;
    move |step| {
        let tenth = step.matched_index * 10 / step.last_index.max(1);
        let seen = (step.stage(), tenth, step.reachable);
        if last.replace(seen) == Some(seen) {
            return;
        }
        let (matched, of) = (step.matched_index, step.last_index);
        let line = match step.stage() {
            Stage::Learning if !step.reachable && matched == 0 => {
                "is a learner, and was not reached yet".to_owned()
            }
            Stage::Learning if !step.reachable => {
                format!("can't be reached; it has {matched} of {of} entries")
            }
            Stage::Learning => format!("catches up: {matched} of {of} entries"),
            Stage::CaughtUp => format!("has caught up: {matched} of {of} entries"),
            Stage::Voter => "has a vote".to_owned(),
            Stage::Unspecified => return,
        };
        // That nobody reads stderr is no failure.
        writeln!(std::io::stderr(), "replica/{id} {line}").ok();
    }
}

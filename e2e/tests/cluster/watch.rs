//! Watches outlive their replica: every change is told, once, in the order of the log, wherever the rest of it comes from.

use super::replicas::{context_of, runtime};
use super::{LONG, manifest};
use cli::client::{Change, Client};
use cli::context;
use e2e::cluster::{Cluster, Member};
use proto::object::Kind;
use proto::wire::{self, object::Object};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What is created while somebody watches; after half of it a replica is lost.
const SANDBOXES: usize = 60;
/// Created after all else.
const LAST: &str = "last";

/// What has happened, to what, and which version of it that was.
type Told = (&'static str, String, u64);

/// All replicas, this one first.
fn beginning_with(context: &context::File, replica: &Member) -> context::File {
    let mut context = context.clone();
    context
        .servers
        .sort_by_key(|server| *server != replica.endpoint());
    context
}

/// Follows all sandboxes until the last one is there. Returns once the present is told, of which there is none.
fn follow(runtime: &Runtime, context: context::File) -> JoinHandle<Vec<Told>> {
    let (begun, synced) = oneshot::channel();
    let following = runtime.spawn(async move {
        let client = Client::of(&context, LONG).expect("a client");
        let mut watch = client.watch(wire::WatchRequest {
            kind: wire::Kind::Sandbox.into(),
            ..Default::default()
        });
        let first = watch.next().await.expect("the watch begins");
        assert_eq!(first, Change::Synced, "nothing is there");
        begun.send(()).expect("somebody waits for it");
        let mut told = Vec::new();
        loop {
            let (what, object) = match watch.next().await.expect("the watch goes on") {
                Change::Changed(object) => ("changed", object),
                Change::Deleted(object) => ("deleted", object),
                Change::Synced => panic!("told twice"),
            };
            let Some(Object::Sandbox(sandbox)) = object.object else {
                panic!("not asked for: {object:?}");
            };
            let is_last = sandbox.id == LAST;
            told.push((what, sandbox.id, sandbox.resource_version));
            if is_last {
                return told;
            }
        }
    });
    runtime.block_on(synced).expect("the watch begins");
    following
}

/// Takes away, by `sbxctl dev <verb>`, the replica of this role that one watch comes from, and compares what that tells
/// with what one tells whose replica stays.
#[track_caller]
fn check(role: &str, verb: &str) {
    let cluster = Cluster::up(0, &[]);
    let context = context_of(&cluster);
    let runtime = runtime();
    let lost = cluster.member_that_is(role);
    let others = cluster.members();
    let stays = others
        .iter()
        .find(|m| m.role == "follower" && m.name != lost.name);
    let stays = stays.expect("there are three");
    let interrupted = follow(&runtime, beginning_with(&context, &lost));
    let whole = follow(&runtime, beginning_with(&context, stays));
    let client = Client::of(&context, LONG).expect("a client");
    let create = |id: &str| {
        let text = manifest(id, "true", "node_selector: {nowhere: 'true'}");
        let manifest = proto::manifest::parse(&text).expect("it is good").remove(0);
        runtime.block_on(client.apply(&manifest, false)).expect("created");
    };
    for n in 0..SANDBOXES {
        let id = format!("s{n}");
        create(&id);
        if n % 3 == 0 {
            let deleting = client.delete(Kind::Sandbox, &id, false);
            runtime.block_on(deleting).expect("deleted");
        }
        if n == SANDBOXES / 2 {
            cluster.run(&format!("dev {verb} {}", lost.name)).ok();
        }
    }
    create(LAST);
    let interrupted = runtime.block_on(interrupted).expect("it was followed");
    let whole = runtime.block_on(whole).expect("it was followed");
    assert_eq!(interrupted, whole);
    let deleted = whole.iter().filter(|(what, ..)| *what == "deleted").count();
    assert_eq!(deleted, SANDBOXES.div_ceil(3), "{whole:?}");
}

#[test]
fn watch_of_a_follower_that_is_killed_goes_on_elsewhere_without_a_gap_or_a_double() {
    check("follower", "kill");
}

#[test]
fn watch_of_a_leader_that_is_killed_goes_on_elsewhere_without_a_gap_or_a_double() {
    check("leader", "kill");
}

#[test]
fn watch_of_a_follower_that_is_frozen_goes_on_elsewhere_without_a_gap_or_a_double() {
    check("follower", "pause");
}

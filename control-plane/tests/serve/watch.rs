//! Watches that go on at an index, at any replica, and those that can't.

use crate::cluster::{Cluster, Service, within};
use crate::user::*;
use proto::wire::control_client::ControlClient;
use proto::wire::{self, Kind, object::Object, watch_event::Type};
use std::time::Duration;
use tonic::{Code, Status, Streaming};

fn externals(since_index: u64) -> wire::WatchRequest {
    wire::WatchRequest {
        kind: Kind::External.into(),
        since_index,
        ..Default::default()
    }
}

async fn open(
    mut control: ControlClient<Service>,
    request: wire::WatchRequest,
) -> Result<Streaming<wire::WatchEvent>, Status> {
    within("a watch", control.watch(request))
        .await
        .map(tonic::Response::into_inner)
}

/// What is told up to the marker: the kinds of events and ids, and the index of the marker.
async fn until_synced(watch: &mut Streaming<wire::WatchEvent>) -> (Vec<(Type, String)>, u64) {
    let mut told = Vec::new();
    loop {
        let event = within("an event", watch.message())
            .await
            .expect("it goes on")
            .expect("it goes on");
        match event.r#type() {
            Type::Synced => return (told, event.index),
            kind => told.push((kind, external_of(&event).expect("an external").id)),
        }
    }
}

fn external_of(event: &wire::WatchEvent) -> Option<wire::External> {
    match event.object.clone()?.object? {
        Object::External(external) => Some(external),
        Object::Sandbox(_) | Object::Node(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_goes_on_at_its_index_at_any_replica() {
    let cluster = Cluster::start(3).await;
    for id in ["a", "b"] {
        apply(&cluster, external(id, &format!("n-{id}"), "x.test")).await;
    }
    let mut control = cluster.control(0);
    let listed = within(
        "a list",
        control.list(wire::ListRequest {
            kind: Kind::External.into(),
            ..Default::default()
        }),
    )
    .await
    .expect("it answers")
    .into_inner();
    apply(&cluster, external("c", "n-c", "x.test")).await;
    delete(&cluster, Kind::External, "a").await;
    for replica in 0..3 {
        let mut watch = open(cluster.control(replica), externals(listed.index))
            .await
            .expect("it is kept");
        let (told, index) = until_synced(&mut watch).await;
        let expected = [(Type::Changed, "c".to_owned()), (Type::Deleted, "a".to_owned())];
        assert_eq!(told, expected, "replica {replica}");
        let mut again = open(cluster.control(replica), externals(index))
            .await
            .expect("it is kept");
        assert_eq!(until_synced(&mut again).await.0, [], "replica {replica}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_are_not_kept_are_refused_with_what_to_do() {
    let cluster = Cluster::start(1).await;
    apply(&cluster, external("e", "n", "x.test")).await;
    // Of another cluster, or of one before a restore.
    let status = open(cluster.control(0), externals(1_000_000))
        .await
        .expect_err("nobody knows what came before it");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("List again"), "{status:?}");
}

/// Whoever goes on where he was while leaders come and go gets every change, and each once, also where one entry of the
/// log has changed many objects.
#[tokio::test(flavor = "multi_thread")]
async fn watch_that_follows_a_failover_misses_and_doubles_nothing() {
    let mut cluster = Cluster::start(3).await;
    let count = 60;
    let first = cluster.leader().await;
    // Together, so that they ride in few entries; each until it is accepted, once.
    let writes = async |cluster: &Cluster, numbers: std::ops::Range<u32>| {
        let request = |n| apply_request(external(&format!("e{n:03}"), &format!("n{n}"), "x.test"));
        let mut waiting: Vec<wire::ApplyRequest> = numbers.map(request).collect();
        while !waiting.is_empty() {
            let control = cluster.control(cluster.leader().await);
            let asked = waiting.iter().map(|request| {
                let mut control = control.clone();
                async move { within("an apply", control.apply(request.clone())).await.is_ok() }
            });
            let accepted = futures::future::join_all(asked).await;
            let mut accepted = accepted.into_iter();
            waiting.retain(|_| !accepted.next().unwrap_or_default());
        }
    };
    writes(&cluster, 0..count).await;
    let mut told: Vec<String> = Vec::new();
    // Breaks off after each few events, and goes on elsewhere.
    let mut request = externals(1);
    let mut replica = 0;
    let mut stopped = None;
    while told.len() < 2 * count as usize {
        replica = (replica + 1) % 3;
        if Some(replica) == stopped {
            continue;
        }
        let mut watch = open(cluster.control(replica), request.clone())
            .await
            .expect("it is kept");
        for _ in 0..7 {
            let event = within("an event", watch.message())
                .await
                .expect("it goes on")
                .expect("it goes on");
            if let Some(external) = external_of(&event) {
                assert_eq!(event.r#type(), Type::Changed);
                told.push(external.id);
            }
            (request.since_index, request.since_behind) = (event.index, event.behind);
            if event.r#type() == Type::Synced {
                break;
            }
        }
        if stopped.is_none() && told.len() > count as usize / 2 {
            cluster.stop(first).await;
            stopped = Some(first);
            writes(&cluster, count..2 * count).await;
        }
    }
    let mut once = told.clone();
    once.sort();
    once.dedup();
    assert_eq!(
        (told.len(), once.len()),
        (120, 120),
        "a change is missing or doubled"
    );
}

/// A sandbox whose stored form takes this many bytes at least.
fn large(id: &str, bytes: usize) -> wire::Manifest {
    let mut manifest = sandbox(id, "");
    if let Some(wire::manifest::Spec::Sandbox(spec)) = &mut manifest.spec {
        spec.containers[0].env = vec![format!("FILL={}", "x".repeat(bytes))];
    }
    manifest
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_watcher_is_cut_off_and_holds_no_queue() {
    let cluster = Cluster::start(1).await;
    let request = wire::WatchRequest {
        kind: Kind::Sandbox.into(),
        ..Default::default()
    };
    let mut slow = open(cluster.control(0), request.clone())
        .await
        .expect("it begins");
    // More than is kept.
    for n in 0..24 {
        apply(&cluster, large(&format!("s{n}"), 900 << 10)).await;
        delete(&cluster, Kind::Sandbox, &format!("s{n}")).await;
    }
    let mut told = 0;
    let status = loop {
        match within("an event", slow.message()).await {
            Ok(_) => told += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::OutOfRange, "{status:?} after {told} events");
    // And so is who comes back with an index of long ago.
    let since = wire::WatchRequest {
        since_index: 1,
        ..request
    };
    let status = open(cluster.control(0), since).await.expect_err("it is long ago");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_watch_is_told_how_far_the_log_is() {
    let cluster = Cluster::start(1).await;
    let mut watch = open(cluster.control(0), externals(0)).await.expect("it begins");
    let (_, synced) = until_synced(&mut watch).await;
    apply(&cluster, sandbox("of-no-interest", "")).await;
    let event = within("an event", watch.message())
        .await
        .expect("it goes on")
        .expect("it goes on");
    assert_eq!(event.r#type(), Type::Progress);
    assert!(event.index > synced, "{event:?}");
    // Nothing more to tell: silence.
    let quiet = tokio::time::timeout(Duration::from_millis(100), watch.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

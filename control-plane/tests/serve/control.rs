//! What users can ask of a replica.

use crate::cluster::{Cluster, within};
use crate::user::*;
use proto::wire::error_detail::Detail;
use proto::wire::{self, Kind, Outcome, object::Object, watch_event::Type};
use std::collections::BTreeMap;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn applied_object_is_created_then_unchanged_then_configured() {
    let cluster = Cluster::start(1).await;
    let check = async |manifest: wire::Manifest, expected: Outcome| {
        let applied = apply(&cluster, manifest).await;
        assert_eq!(applied.outcome(), expected);
        applied
            .object
            .and_then(|o| o.object)
            .expect("the object is shown")
    };
    check(external("e", "n", "x.test"), Outcome::Created).await;
    check(external("e", "n", "x.test"), Outcome::Unchanged).await;
    let shown = check(external("e", "n", "y.test"), Outcome::Configured).await;
    let mut control = cluster.control(0);
    let got = get(&mut control, Kind::External, "e").await.expect("it is there");
    assert_eq!(got, shown);
    delete(&cluster, Kind::External, "e").await;
    let status = get(&mut control, Kind::External, "e")
        .await
        .expect_err("it is gone");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn retried_request_takes_effect_once_and_gets_the_first_answer() {
    let cluster = Cluster::start(1).await;
    let mut control = cluster.control(0);
    let request = apply_request(external("e", "n", "x.test"));
    for _ in 0..2 {
        let applied = within("an apply", control.apply(request.clone()))
            .await
            .expect("it is accepted");
        assert_eq!(applied.into_inner().outcome(), Outcome::Created);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_request_is_refused_with_what_is_wrong() {
    let cluster = Cluster::start(1).await;
    let mut control = cluster.control(0);
    let mut check = async |request: wire::ApplyRequest, part: &str| {
        let status = control.apply(request).await.expect_err("it is refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(
            status.message().contains(part),
            "`{}` does not say `{part}`",
            status.message()
        );
    };
    let good = || sandbox("s", "");
    check(
        wire::ApplyRequest {
            request_id: "1".to_owned(),
            ..apply_request(good())
        },
        "request_id",
    )
    .await;
    check(
        wire::ApplyRequest {
            manifest: None,
            ..apply_request(good())
        },
        "manifest",
    )
    .await;
    check(
        apply_request(wire::Manifest {
            id: "..".to_owned(),
            ..good()
        }),
        "id",
    )
    .await;
    let mut loose = good();
    if let Some(wire::manifest::Spec::Sandbox(spec)) = &mut loose.spec {
        spec.containers[0].cap_add = vec!["SYS_ADMIN".to_owned()];
    }
    check(apply_request(loose), "policy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn immutable_fields_are_named() {
    let cluster = Cluster::start(1).await;
    apply(&cluster, sandbox("s", "")).await;
    let changed = apply_request(sandbox("s", "egress: true,"));
    let status = cluster
        .control(0)
        .apply(changed.clone())
        .await
        .expect_err("egress can't be changed");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let fields = vec!["spec.egress".to_owned()];
    assert_eq!(
        detail(&status),
        Some(Detail::Immutable(wire::Immutable { fields }))
    );
    let replaced = wire::ApplyRequest {
        request_id: request_id(),
        replace: true,
        ..changed
    };
    let replaced = cluster
        .control(0)
        .apply(replaced)
        .await
        .expect("it is replaced")
        .into_inner();
    assert_eq!(replaced.outcome(), Outcome::Replaced);
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_names_the_leader_and_answers_reads() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut control = cluster.control(follower);
    let status = control
        .apply(apply_request(external("e", "n", "x.test")))
        .await
        .expect_err("it does not lead");
    assert_names_leader(&status, cluster.endpoint(leader));
    apply(&cluster, external("e", "n", "x.test")).await;
    // Linearizable: what was acknowledged is there, without waiting.
    get(&mut control, Kind::External, "e")
        .await
        .expect("the follower shows it");
    let list = wire::ListRequest {
        kind: Kind::External.into(),
        ..Default::default()
    };
    let listed = within("a list", control.list(list))
        .await
        .expect("it answers")
        .into_inner();
    assert_eq!(listed.items.len(), 1);
    assert!(listed.index > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_stale_reads_go_on_and_others_are_refused() {
    let mut cluster = Cluster::start(3).await;
    apply(&cluster, external("e", "n", "x.test")).await;
    let last = cluster.leader().await;
    for replica in (0..3).filter(|n| *n != last) {
        cluster.stop(replica).await;
    }
    let mut control = cluster.control(last);
    let stale = wire::GetRequest {
        kind: Kind::External.into(),
        id: "e".to_owned(),
        stale: true,
        ..Default::default()
    };
    within("a stale read", control.get(stale))
        .await
        .expect("it is answered");
    let status = get(&mut control, Kind::External, "e")
        .await
        .expect_err("nobody can confirm it");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let apply = control.apply(apply_request(external("f", "m", "y.test")));
    let status = within("an answer", apply)
        .await
        .expect_err("nobody can commit it");
    assert!(
        matches!(status.code(), Code::Unavailable | Code::FailedPrecondition),
        "{status:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_tells_the_present_then_a_marker_then_changes() {
    let cluster = Cluster::start(1).await;
    apply(&cluster, sandbox("a", "")).await;
    let request = wire::WatchRequest {
        kind: Kind::Sandbox.into(),
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        ..Default::default()
    };
    let mut watch = Watch::open(&cluster, 0, request).await;
    let mut check = async |kind: Type, id: Option<&str>| {
        loop {
            let (told, object) = watch.next().await.expect("it goes on");
            let told_id = object.map(|object| as_sandbox(object).id);
            // That nothing fits is explained at some time between.
            if told == kind && told_id.as_deref() == id {
                return;
            }
            assert_eq!((told, told_id.as_deref()), (Type::Changed, Some("a")));
        }
    };
    check(Type::Changed, Some("a")).await;
    check(Type::Synced, None).await;
    let mut moved = sandbox("a", "");
    moved.labels = BTreeMap::from([("team".to_owned(), "b".to_owned())]);
    apply(&cluster, moved).await;
    check(Type::Deleted, Some("a")).await;
    apply(&cluster, sandbox("c", "")).await;
    check(Type::Changed, Some("c")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_with_a_word_when_the_replica_stops() {
    let mut cluster = Cluster::start(1).await;
    let mut watch = Watch::of(&cluster, 0, Kind::Node, "").await;
    assert_eq!(watch.next().await.expect("it begins").0, Type::Synced);
    cluster.stop(0).await;
    let status = watch.next().await.expect_err("it ends");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_shows_when_the_leader_heard_a_node() {
    let cluster = Cluster::start(3).await;
    let _agent = crate::agent::Agent::join(&cluster, "n").await;
    let mut control = cluster.control(cluster.follower().await);
    let Object::Node(node) = get(&mut control, Kind::Node, "n").await.expect("it is there") else {
        panic!("a node was asked for");
    };
    assert!(node.last_heartbeat_ms > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_shows_its_public_name_and_what_is_used() {
    let cluster = Cluster::start(1).await;
    let mut agent = crate::agent::Agent::join(&cluster, "n").await;
    apply(&cluster, external("e", "n", "x.test")).await;
    apply(&cluster, sandbox("s", "")).await;
    agent.told_to_run("s").await;
    let mut control = cluster.control(0);
    let Object::Node(node) = get(&mut control, Kind::Node, "n").await.expect("it is there") else {
        panic!("a node was asked for");
    };
    assert_eq!(node.external, "x.test");
    assert!(node.last_heartbeat_ms > 0);
    let usage = node.usage.expect("it is filled in");
    assert_eq!((usage.cpu_milli, usage.sandboxes), (100, 1));
    let sandbox = as_sandbox(get(&mut control, Kind::Sandbox, "s").await.expect("it is there"));
    assert_eq!(sandbox.status.expect("a status").external, "x.test");
}

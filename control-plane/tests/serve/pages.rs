//! Lists in pages, and changes that are made from a certain version.

use crate::cluster::{Cluster, within};
use crate::user::*;
use proto::wire::{self, Kind, Phase, object::Object};
use std::collections::BTreeMap;
use tonic::Code;

fn sandboxes(limit: u32, cursor: &str) -> wire::ListRequest {
    wire::ListRequest {
        kind: Kind::Sandbox.into(),
        limit,
        cursor: cursor.to_owned(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_is_read_page_by_page_over_changes_between() {
    let cluster = Cluster::start(1).await;
    for id in ["a", "b", "c", "d", "e"] {
        apply(&cluster, sandbox(id, "")).await;
    }
    let mut control = cluster.control(0);
    let mut check = async |request: wire::ListRequest, expected: &[&str]| {
        let page = within("a list", control.list(request))
            .await
            .expect("it answers")
            .into_inner();
        let ids: Vec<String> = page
            .items
            .into_iter()
            .filter_map(|object| object.object)
            .map(|object| as_sandbox(object).id)
            .collect();
        assert_eq!(ids, expected);
        page.cursor
    };
    assert_eq!(check(sandboxes(0, ""), &["a", "b", "c", "d", "e"]).await, "");
    assert_eq!(check(sandboxes(5, ""), &["a", "b", "c", "d", "e"]).await, "");
    let cursor = check(sandboxes(2, ""), &["a", "b"]).await;
    // What is before the cursor, and the cursor itself, may come and go.
    delete(&cluster, Kind::Sandbox, "b").await;
    apply(&cluster, sandbox("aa", "")).await;
    let cursor = check(sandboxes(2, &cursor), &["c", "d"]).await;
    assert_eq!(check(sandboxes(2, &cursor), &["e"]).await, "");
    let selected = |team: &str, phase: Phase| wire::ListRequest {
        labels: BTreeMap::from([("team".to_owned(), team.to_owned())]),
        phase: phase.into(),
        ..sandboxes(1, "d")
    };
    assert_eq!(check(selected("a", Phase::Pending), &["e"]).await, "");
    assert_eq!(check(selected("a", Phase::Running), &[]).await, "");
    assert_eq!(check(selected("b", Phase::Pending), &[]).await, "");
    let status = control
        .list(sandboxes(2, "../x"))
        .await
        .expect_err("it is no cursor");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_another_version_is_refused() {
    let cluster = Cluster::start(1).await;
    let mut control = cluster.control(0);
    let mut write = async |name: &str, resource_version: Option<u64>| {
        let request = wire::ApplyRequest {
            resource_version,
            ..apply_request(external("e", "n", name))
        };
        let applied = within("an apply", control.apply(request)).await?.into_inner();
        match applied.object.and_then(|object| object.object) {
            Some(Object::External(external)) => Ok(external.resource_version),
            other => panic!("not an external: {other:?}"),
        }
    };
    let first = write("a.test", Some(0)).await.expect("there is none yet");
    let status: tonic::Status = write("b.test", Some(0)).await.expect_err("there is one");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let second = write("b.test", Some(first)).await.expect("nobody wrote between");
    assert!(second > first);
    let status: tonic::Status = write("c.test", Some(first)).await.expect_err("it has changed");
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert!(status.message().contains("changed meanwhile"), "{status:?}");
    write("c.test", None).await.expect("no version was asked for");
}

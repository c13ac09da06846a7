//! What users ask for, and how they wait for it.

use crate::cluster::{Cluster, Service, within};
use prost::Message;
use proto::wire::control_client::ControlClient;
use proto::wire::error_detail::Detail;
use proto::wire::{self, object::Object, watch_event::Type};
use tonic::{Status, Streaming};

pub(crate) fn request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

pub(crate) fn manifest(text: &str) -> wire::Manifest {
    (&proto::manifest::parse(text).expect("the manifest is good")[0]).into()
}

/// A sandbox of one container; `more` is further fields of its spec.
pub(crate) fn sandbox(id: &str, more: &str) -> wire::Manifest {
    manifest(&format!(
        "{{apiVersion: sandboxd.o/v1, kind: Sandbox, id: {id}, metadata: {{labels: {{team: a}}}}, spec: {{{more} \
         containers: [{{name: main, image: busybox, resource: {{cpu: 100m, memory: 32Mi}}}}]}}}}"
    ))
}

pub(crate) fn external(id: &str, node: &str, name: &str) -> wire::Manifest {
    manifest(&format!(
        "{{apiVersion: sandboxd.o/v1, kind: External, id: {id}, spec: {{node_id: {node}, external: {name}}}}}"
    ))
}

pub(crate) fn apply_request(manifest: wire::Manifest) -> wire::ApplyRequest {
    wire::ApplyRequest {
        request_id: request_id(),
        manifest: Some(manifest),
        replace: false,
        resource_version: None,
    }
}

/// Applies at the leader.
pub(crate) async fn apply(cluster: &Cluster, manifest: wire::Manifest) -> wire::ApplyResponse {
    let mut control = cluster.control(cluster.leader().await);
    let applied = within("an apply", control.apply(apply_request(manifest))).await;
    applied.expect("it is accepted").into_inner()
}

pub(crate) async fn delete(cluster: &Cluster, kind: wire::Kind, id: &str) {
    let request = wire::DeleteRequest {
        request_id: request_id(),
        kind: kind.into(),
        id: id.to_owned(),
        force: false,
    };
    let mut control = cluster.control(cluster.leader().await);
    within("a delete", control.delete(request))
        .await
        .expect("it is accepted");
}

/// # Errors
/// What the replica says.
pub(crate) async fn get(
    control: &mut ControlClient<Service>,
    kind: wire::Kind,
    id: &str,
) -> Result<Object, Status> {
    let request = wire::GetRequest {
        kind: kind.into(),
        id: id.to_owned(),
        stale: false,
        ..Default::default()
    };
    let got = within("a get", control.get(request)).await?;
    Ok(got.into_inner().object.expect("an object"))
}

pub(crate) fn as_sandbox(object: Object) -> wire::Sandbox {
    match object {
        Object::Sandbox(sandbox) => sandbox,
        other => panic!("not a sandbox: {other:?}"),
    }
}

pub(crate) struct Watch(Streaming<wire::WatchEvent>);

impl Watch {
    pub(crate) async fn open(cluster: &Cluster, replica: usize, request: wire::WatchRequest) -> Self {
        let mut control = cluster.control(replica);
        Self(
            within("a watch", control.watch(request))
                .await
                .expect("it is accepted")
                .into_inner(),
        )
    }

    /// Of one object.
    pub(crate) async fn of(cluster: &Cluster, replica: usize, kind: wire::Kind, id: &str) -> Self {
        let request = wire::WatchRequest {
            kind: kind.into(),
            id: id.to_owned(),
            ..Default::default()
        };
        Self::open(cluster, replica, request).await
    }

    /// # Errors
    /// How the watch ended.
    pub(crate) async fn next(&mut self) -> Result<(Type, Option<Object>), Status> {
        let event = within("an event", self.0.message())
            .await?
            .expect("a watch ends with a status");
        Ok((event.r#type(), event.object.and_then(|o| o.object)))
    }

    /// The sandbox, once it is in this phase.
    pub(crate) async fn until_phase(&mut self, phase: wire::Phase) -> wire::Sandbox {
        loop {
            if let (Type::Changed, Some(Object::Sandbox(sandbox))) = self.next().await.expect("it goes on")
                && sandbox.status.as_ref().is_some_and(|s| s.phase() == phase)
            {
                return sandbox;
            }
        }
    }

    pub(crate) async fn until_state(&mut self, state: wire::NodeState) -> wire::Node {
        loop {
            if let (Type::Changed, Some(Object::Node(node))) = self.next().await.expect("it goes on")
                && node.state() == state
            {
                return node;
            }
        }
    }

    pub(crate) async fn until_deleted(&mut self) {
        while self.next().await.expect("it goes on").0 != Type::Deleted {}
    }
}

pub(crate) fn detail(status: &Status) -> Option<Detail> {
    wire::ErrorDetail::decode(status.details())
        .expect("it is ours")
        .detail
}

/// Fails unless `status` names the leader of the cluster.
#[track_caller]
pub(crate) fn assert_names_leader(status: &Status, endpoint: &str) {
    match detail(status) {
        Some(Detail::NotLeader(leader)) => assert_eq!(leader.endpoint, endpoint),
        other => panic!("{status:?} names no leader: {other:?}"),
    }
}

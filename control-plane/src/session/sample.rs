//! Objects for tests.

use proto::id::{NodeId, Uid};
use proto::object::Sandbox;
use proto::spec::Manifest;
use proto::status::{Phase, SandboxStatus};
use proto::units::Timestamp;

pub(crate) fn node(id: &str) -> NodeId {
    id.parse().expect("the id is good")
}

/// A sandbox of one container `main`.
pub(crate) fn sandbox(id: &str, uid: u64, phase: Phase, on: Option<&str>) -> Sandbox {
    let text = format!(
        "{{apiVersion: sandboxd.o/v1, kind: Sandbox, id: {id}, spec: {{containers: \
         [{{name: main, image: busybox, resource: {{cpu: 100m, memory: 32Mi}}}}]}}}}"
    );
    let Manifest::Sandbox { id, labels, spec } = proto::manifest::parse(&text)
        .expect("the manifest is good")
        .remove(0)
    else {
        panic!("a sandbox was written");
    };
    let status = SandboxStatus {
        phase,
        node_name: on.map(node),
        ..SandboxStatus::default()
    };
    Sandbox {
        id,
        uid: Uid(uid),
        labels,
        spec,
        status,
        created_at: Timestamp(1),
        updated_at: Timestamp(1),
        resource_version: 1,
        events: Vec::new(),
        trace_id: String::new(),
    }
}

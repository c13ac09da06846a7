//! What is encoded can be decoded to the same, and what an honest peer would never send is refused.

use proto::manifest::parse;
use proto::policy::Policy;
use proto::spec::{Manifest, SandboxSpec};
use proto::wire;

const EVERYTHING: &str = r"
apiVersion: sandboxd.o/v1
kind: Sandbox
id: everything
metadata: {labels: {a: b}}
spec:
  egress: true
  egress_allow: ['10.0.0.0/8', '[2001:db8::/32]:443/tcp']
  ttl_seconds: 60
  node_selector: {region: eu}
  runtime: crun
  priority: -3
  on_node_loss: reschedule
  ports: [{container_port: 80}, {container_port: 80, protocol: udp}]
  volumes: [{name: v, ephemeral_storage: 1Mi}]
  readiness_probe: {protocol: http, path: /x, port: 80, initial_delay_seconds: 0, period_seconds: 1, timeout_seconds: 2,
    success_threshold: 3, failure_threshold: 4}
  containers:
    - name: c
      image: alpine:3.20
      args: [a, b]
      env: [A=1]
      work_dir: /srv
      volume_mounts: [{name: v, mount_path: /v, read_only: true}]
      cap_add: [NET_RAW]
      cap_drop: [ALL]
      security_opt: ['no-new-privileges:true', 'seccomp=runtime/default']
      read_only: true
      tmpfs: [{mount_path: /x, options: [size=1m, noexec]}]
      resource: {cpu: 250m, memory: 1Mi, ephemeral_storage: 2Mi}
";

fn manifest(text: &str) -> Manifest {
    parse(text).unwrap_or_else(|faults| panic!("{faults}")).remove(0)
}

fn spec() -> wire::SandboxSpec {
    match manifest(EVERYTHING) {
        Manifest::Sandbox { spec, .. } => (&spec).into(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn manifests_survive_the_wire() {
    for text in [
        EVERYTHING,
        "{apiVersion: sandboxd.o/v1, kind: Node, id: n, metadata: {labels: {a: b}}, spec: {ip: 192.0.2.1, port: 7}}",
        "{apiVersion: sandboxd.o/v1, kind: External, id: e, spec: {node_id: n, external: example.org}}",
    ] {
        let manifest = manifest(text);
        assert_eq!(Manifest::try_from(wire::Manifest::from(&manifest)), Ok(manifest));
    }
}

/// What is shown as YAML is a manifest again.
#[test]
fn serialized_spec_can_be_read_again() {
    let Manifest::Sandbox { id, labels, spec } = manifest(EVERYTHING) else {
        panic!("not a sandbox")
    };
    let value = serde_json::json!({
        "apiVersion": "sandboxd.o/v1", "kind": "Sandbox", "id": id, "metadata": {"labels": labels}, "spec": spec,
    });
    assert_eq!(
        manifest(&value.to_string()),
        Manifest::Sandbox { id, labels, spec }
    );
}

#[track_caller]
fn refused(change: impl FnOnce(&mut wire::SandboxSpec), why: &str) {
    let mut spec = spec();
    change(&mut spec);
    let error = SandboxSpec::try_from(spec).expect_err("refused").to_string();
    assert!(error.contains(why), "{error}");
}

#[test]
fn rules_hold_for_what_comes_over_the_wire() {
    refused(
        |s| s.containers.clear(),
        "spec.containers: at least one is required",
    );
    refused(
        |s| s.volumes[0].size_bytes = 0,
        "spec.volumes[0].ephemeral_storage: must be greater than 0",
    );
    refused(
        |s| s.containers[0].volume_mounts[0].mount_path = "/proc/x".into(),
        "/proc belongs to the kernel",
    );
    refused(
        |s| s.containers[0].image = "alpine".into(),
        "must be sent in full",
    );
    refused(
        |s| s.containers[0].memory_bytes = 0,
        "spec.containers[0].resource.memory: must be greater than 0",
    );
    refused(
        |s| s.containers[0].cap_add = vec!["NOPE".into()],
        "`NOPE` is not a capability",
    );
    refused(|s| s.containers[0].name = "a/b".into(), "containers.name");
    refused(
        |s| s.ports[0].container_port = 70_000,
        "container_port: `70000` is out of range",
    );
    refused(|s| s.runtime = 99, "runtime: 99 is not known here");
    refused(
        |s| s.egress_allow[0].cidr = "10.0.0.1/8".into(),
        "did you mean 10.0.0.0/8",
    );
    refused(
        |s| s.containers[0].security_opt[0] = "seccomp=/etc/x".into(),
        "the profile must be",
    );
    refused(
        |s| s.readiness_probe.as_mut().expect("there").port = 81,
        "81 is not among the declared ports",
    );
}

#[test]
fn loosened_isolation_needs_a_policy_that_allows_it() {
    let mut wire = spec();
    let Ok(plain) = SandboxSpec::try_from(wire.clone()) else {
        panic!("valid")
    };
    assert_eq!(Policy::default().check(&plain), Ok(()));
    wire.containers[0].cap_add = vec!["NET_RAW".into(), "SYS_ADMIN".into()];
    wire.containers[0].security_opt = vec!["seccomp=unconfined".into(), "no-new-privileges:false".into()];
    let loose = SandboxSpec::try_from(wire).expect("valid");
    let refused = "loosens isolation and is refused by this cluster's policy";
    assert_eq!(
        Policy::default().check(&loose).expect_err("refused").to_string(),
        format!(
            "spec.containers[0].cap_add[1]: `SYS_ADMIN` {refused}\n\
             spec.containers[0].security_opt[0]: `seccomp=unconfined` {refused}\n\
             spec.containers[0].security_opt[1]: `no-new-privileges:false` {refused}"
        )
    );
    let open = Policy {
        extra_capabilities: true,
        unconfined: true,
        new_privileges: true,
    };
    assert_eq!(open.check(&loose), Ok(()));
}

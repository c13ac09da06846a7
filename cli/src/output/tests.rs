//! Whole outputs, byte for byte.

use super::*;
use proto::document::ClusterDocument;

const NOW: Timestamp = Timestamp(1_700_000_300_000);

fn sandbox() -> wire::Object {
    let text = "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: web
metadata: {labels: {team: a}}
spec:
  ttl_seconds: 3600
  ports: [{container_port: 80}]
  volumes: [{name: state, ephemeral_storage: 128Mi}]
  containers:
    - name: server
      image: nginx
      volume_mounts: [{name: state, mount_path: /srv}]
      resource: {cpu: 250m, memory: 128Mi}
";
    let manifest = proto::manifest::parse(text).unwrap().remove(0);
    let wire::Manifest { id, labels, spec } = wire::Manifest::from(&manifest);
    let Some(wire::manifest::Spec::Sandbox(spec)) = spec else {
        panic!("a sandbox was written");
    };
    let status = wire::SandboxStatus {
        phase: wire::Phase::Failed.into(),
        reason: wire::Reason::OomKilled.into(),
        last_error: "server used more than 128Mi".to_owned(),
        node_name: "agent-1".to_owned(),
        ip: "10.89.0.3".to_owned(),
        assigned_ports: vec![wire::AssignedPort {
            host_port: 31042,
            container_port: 80,
            protocol: wire::Protocol::Tcp.into(),
        }],
        expire_at_ms: 1_700_003_600_000,
        containers: vec![wire::ContainerStatus {
            name: "server".to_owned(),
            state: wire::ContainerState::Exited.into(),
            exit_code: Some(137),
            oom_killed: true,
            started_at_ms: 1_700_000_001_000,
            finished_at_ms: 1_700_000_002_500,
            image_digest: "sha256:abc".to_owned(),
        }],
        timings_ms: [("image".to_owned(), 12)].into(),
        ended_at_ms: 1_700_000_002_500,
        conditions: Vec::new(),
        earlier_placements: Vec::new(),
        external: String::new(),
    };
    wire::Object {
        object: Some(wire::object::Object::Sandbox(wire::Sandbox {
            id,
            uid: 7,
            labels,
            spec: Some(spec),
            status: Some(status),
            created_at_ms: 1_700_000_000_000,
            updated_at_ms: 1_700_000_002_500,
            resource_version: 42,
            ..Default::default()
        })),
    }
}

fn node(registered: bool) -> wire::Object {
    wire::Object {
        object: Some(wire::object::Object::Node(wire::Node {
            id: if registered { "agent-1" } else { "spare" }.to_owned(),
            labels: [("region".to_owned(), "eu".to_owned())].into(),
            reported_labels: [
                ("region".to_owned(), "us".to_owned()),
                ("disk".to_owned(), "ssd".to_owned()),
            ]
            .into(),
            spec: Some(wire::NodeSpec::default()),
            state: if registered {
                wire::NodeState::Ready
            } else {
                wire::NodeState::Unknown
            }
            .into(),
            report: registered.then(|| wire::NodeReport {
                ip: "10.88.7.21".to_owned(),
                port: 0,
                capacity: Some(wire::NodeCapacity {
                    cpu_milli: 4_000,
                    memory_bytes: 8 << 30,
                    max_alloc_percent: 90,
                }),
                runtimes: vec![wire::RuntimeInfo {
                    runtime: wire::Runtime::Native.into(),
                    version: "0.7".to_owned(),
                }],
                default_runtime: wire::Runtime::Native.into(),
                agent_version: "0.1.0".to_owned(),
                boot_id: "b".to_owned(),
                cgroup_mode: "v2".to_owned(),
                kernel: "6.1".to_owned(),
                user_namespaces: Some(true),
            }),
            created_at_ms: 1_700_000_000_000,
            updated_at_ms: 1_700_000_000_000,
            last_heartbeat_ms: if registered { 1_700_000_299_000 } else { 0 },
            usage: registered.then_some(wire::NodeUsage {
                cpu_milli: 250,
                memory_bytes: 128 << 20,
                sandboxes: 1,
            }),
            external: if registered { "n1.example" } else { "" }.to_owned(),
            ..Default::default()
        })),
    }
}

#[track_caller]
fn check_table(kind: Kind, wide: bool, objects: &[wire::Object], expected: &str) {
    let mut table = Table::new(header(kind, wide));
    for object in objects {
        table.push(row(object, NOW, wide).unwrap());
    }
    assert_eq!(table.render().trim(), expected.trim());
}

#[test]
fn failed_sandbox_in_a_table_shows_exit_codes_and_reason() {
    check_table(
        Kind::Sandbox,
        false,
        &[sandbox()],
        "
ID    PHASE    CONTAINERS   NODE      PORTS           AGE   MESSAGE
web   Failed   exit 137     agent-1   31042->80/tcp   5m    OOMKilled: server used more than 128Mi
",
    );
}

#[test]
fn wide_table_adds_address_external_and_expiry() {
    check_table(
        Kind::Sandbox,
        true,
        &[sandbox()],
        "
ID    PHASE    CONTAINERS   NODE      PORTS           AGE   IP          EXTERNAL   EXPIRES   RUNTIME   LABELS   MESSAGE
web   Failed   exit 137     agent-1   31042->80/tcp   5m    10.89.0.3   (none)     in 55m    default   team=a   OOMKilled: server used more than 128Mi
",
    );
}

#[test]
fn nodes_with_and_without_an_agent_are_aligned() {
    check_table(
        Kind::Node,
        false,
        &[node(true), node(false)],
        "
ID        STATE     IP           SANDBOXES   CPU          MEMORY         AGE   MESSAGE
agent-1   Ready     10.88.7.21   1           250m/3600m   128Mi/7372Mi   5m    -
spare     Unknown   -            0           0/0          0/0            5m    -
",
    );
}

#[test]
fn wide_table_of_nodes_says_what_they_can() {
    check_table(
        Kind::Node,
        true,
        &[node(true), node(false)],
        "
ID        STATE     IP           SANDBOXES   CPU          MEMORY         AGE   EXTERNAL     HEARTBEAT   RUNTIMES     USERNS   CGROUPS   KERNEL   VERSION   LABELS               MESSAGE
agent-1   Ready     10.88.7.21   1           250m/3600m   128Mi/7372Mi   5m    n1.example   1s ago      native 0.7   yes      v2        6.1      0.1.0     disk=ssd,region=eu   -
spare     Unknown   -            0           0/0          0/0            5m    (none)       -           -            -        -         -        -         disk=ssd,region=eu   -
",
    );
}

#[track_caller]
fn check_document(object: &wire::Object, format: Format, golden: &str) {
    let text = document(&Document::try_from(object.clone()).unwrap(), format).unwrap();
    assert_eq!(text.trim(), golden.trim());
}

#[test]
fn sandbox_as_json_has_the_documented_shape() {
    check_document(&sandbox(), Format::Json, include_str!("golden/sandbox.json"));
}

#[test]
fn sandbox_as_yaml_has_the_documented_shape() {
    check_document(&sandbox(), Format::Yaml, include_str!("golden/sandbox.yaml"));
}

#[test]
fn node_as_json_has_the_documented_shape() {
    check_document(&node(true), Format::Json, include_str!("golden/node.json"));
}

#[test]
fn list_is_wrapped_in_items() {
    let items = vec![Document::try_from(node(false)).unwrap()];
    let value: serde_json::Value =
        serde_json::from_str(&document(&Items { items }, Format::Json).unwrap()).unwrap();
    assert_eq!(value["items"][0]["id"], "spare");
    assert_eq!(value["items"][0]["resources"]["external"], "(none)");
    assert_eq!(value["items"][0]["last_heartbeat"], serde_json::Value::Null);
}

#[test]
fn cluster_in_a_table_shows_roles_and_lag() {
    let replica = |id: u64, leader: bool, matched_index: u64| wire::Replica {
        id,
        endpoint: format!("http://10.88.7.1{id}:7070"),
        peer_endpoint: format!("http://10.88.7.1{id}:7071"),
        voter: true,
        leader,
        matched_index,
        lag: 100 - matched_index.min(100),
        reachable: matched_index != 0,
        software: (matched_index != 0).then(|| wire::Software {
            level: if leader { 3 } else { 2 },
            version: "1.2.0".to_owned(),
        }),
    };
    let view = ClusterDocument::from(wire::ClusterResponse {
        replicas: vec![replica(1, false, 98), replica(2, true, 100), replica(3, false, 0)],
        leader_id: 2,
        term: 4,
        last_applied: 100,
        answered_by: 1,
        removed: Vec::new(),
        level: 2,
        software: None,
    });
    let expected = "
ID   ROLE       REACHABLE   MATCHED   LAG   ENDPOINT
1    follower   yes         98        2     http://10.88.7.11:7070
2    leader     yes         100       0     http://10.88.7.12:7070
3    follower   no          -         -     http://10.88.7.13:7070
";
    assert_eq!(cluster_table(&view, false).trim(), expected.trim());
    let expected = "
ID   ROLE       REACHABLE   MATCHED   LAG   LEVEL   IN-FORCE   VERSION   ENDPOINT                 PEER-ENDPOINT
1    follower   yes         98        2     2       2          1.2.0     http://10.88.7.11:7070   http://10.88.7.11:7071
2    leader     yes         100       0     3       2          1.2.0     http://10.88.7.12:7070   http://10.88.7.12:7071
3    follower   no          -         -     -       2          -         http://10.88.7.13:7070   http://10.88.7.13:7071
";
    assert_eq!(members_table(&view).trim(), expected.trim());
}

#[test]
fn cell_with_line_ends_does_not_break_its_row() {
    let mut table = Table::new(vec!["A", "B"]);
    table.push(vec!["x\ny".to_owned(), "\u{1b}[31mz".to_owned()]);
    assert_eq!(table.render(), "A     B\nx y    [31mz\n");
}

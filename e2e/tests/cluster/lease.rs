//! Two copies of a sandbox never run at once, whatever becomes of its node: its agent is frozen past its lease and thawed,
//! cut off from all replicas, cut off together with the leader. Users reach both nodes all the time, and ask all the time.

mod probe;

use super::LONG;
use super::replicas::{context_of, runtime};
use cli::client::{Change, Client};
use e2e::cluster::Cluster;
use probe::{Copy, Probe};
use proto::wire::{self, Kind, object::Object};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The shortest lease that leaves no window, as `sbxorch --help` says of `--node-lease`.
const TIMES: [&str; 3] = [
    "--replica-arg=--heartbeat=300ms",
    "--replica-arg=--node-grace=2s",
    "--replica-arg=--node-lease=9s",
];
/// A copy that nobody can command still serves its users for most of its lease; less than that would prove little.
const SERVES_ON: Duration = Duration::from_secs(3);
/// An agent that is back is watched for some of its heartbeats.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// A web server whose process is found by its folder, which is named after the test.
fn server(id: &str) -> String {
    format!(
        "apiVersion: sandboxd.o/v1
kind: Sandbox
id: {id}
spec:
  on_node_loss: reschedule
  ports: [{{container_port: 8080}}]
  containers:
    - name: web
      image: busybox:1.36
      args: [/bin/sh, -c, \"mkdir /tmp/{id}; echo here > /tmp/{id}/index.html; exec httpd -f -p 8080 -h /tmp/{id}\"]
      resource: {{cpu: 100m, memory: 32Mi, ephemeral_storage: 16Mi}}
"
    )
}

/// Waits until the sandbox is placed on another node than `home`: known before that node begins to make it.
fn placed_elsewhere(cluster: &Cluster, id: &str, home: &str) -> wire::SandboxStatus {
    let client = Client::of(&context_of(cluster), LONG).expect("a client");
    let request = wire::WatchRequest {
        kind: Kind::Sandbox.into(),
        id: id.to_owned(),
        ..Default::default()
    };
    let mut changes = client.watch(request);
    let moved = async {
        loop {
            if let Change::Changed(object) = changes.next().await.expect("the watch goes on")
                && let Some(Object::Sandbox(sandbox)) = object.object
                && let Some(status) = sandbox.status
                && !status.node_name.is_empty()
                && status.node_name != home
            {
                return status;
            }
        }
    };
    let moved = async { tokio::time::timeout(LONG, moved).await };
    runtime().block_on(moved).expect("it is placed elsewhere")
}

/// Folders of sandboxes on a node.
fn sandboxes(cluster: &Cluster, node: &str) -> Vec<PathBuf> {
    let folder = cluster.dir().join(node).join("state").join("sandboxes");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Takes a sandbox's node away by `lost`, run for the name of its agent, until another node has the sandbox, then brings
/// it back by `found`.
#[track_caller]
fn check(id: &str, lost: &str, found: &str) {
    let cluster = Cluster::up(2, &TIMES);
    cluster.apply(&server(id), &["--wait"]).ok();
    let sandbox = cluster.get("sandbox", id);
    let home = sandbox["status"]["node_name"]
        .as_str()
        .expect("a node")
        .to_owned();
    let port = sandbox["status"]["assigned_ports"][0]["host_port"].as_u64();
    let first = Copy::new(&cluster.member(&home).address, port.expect("a port"));
    let probe = Probe::start(id, first.clone());
    probe.until_it_answers(&first, LONG);

    cluster.run(&lost.replace("HOME", &home)).ok();
    let taken_away = Instant::now();
    let status = placed_elsewhere(&cluster, id, &home);
    let port = u64::from(status.assigned_ports[0].host_port);
    let second = Copy::new(&cluster.member(&status.node_name).address, port);
    probe.add(second.clone());
    probe.until_it_answers(&second, LONG);
    cluster.run(&found.replace("HOME", &home)).ok();
    cluster.wait(&format!("node/{home}"), "state=Ready", LONG).ok();
    let back = Instant::now();
    while back.elapsed() < AFTERWARDS || !sandboxes(&cluster, &home).is_empty() {
        assert!(
            back.elapsed() < LONG,
            "left at home: {:?}",
            sandboxes(&cluster, &home)
        );
        std::thread::sleep(Duration::from_millis(50));
    }

    let seen = probe.end();
    seen.assert_one_at_a_time(&first, &second);
    let served = seen.last_answer(&first).saturating_duration_since(taken_away);
    assert!(
        served > SERVES_ON,
        "the first copy was gone after {served:?}: nothing was put to the test"
    );
    let sandbox = cluster.get("sandbox", id);
    assert_eq!(sandbox["status"]["phase"], "Running", "{sandbox:#}");
    assert_eq!(
        sandbox["status"]["node_name"],
        status.node_name.as_str(),
        "{sandbox:#}"
    );
    let earlier = &sandbox["status"]["earlier_placements"][0];
    assert_eq!(earlier["node_name"], home.as_str(), "{sandbox:#}");
    assert_eq!(earlier["reason"], "NodeLost", "{sandbox:#}");
}

#[test]
fn agent_frozen_past_its_lease_and_thawed_never_makes_two_copies() {
    check("frozen", "dev pause HOME", "dev resume HOME");
}

#[test]
fn agent_cut_off_from_the_leader_but_not_from_users_never_makes_two_copies() {
    check("cut-off", "dev partition HOME", "dev heal");
}

/// The leader goes on to answer the heartbeats until it notices that no quorum is left; its successor counts from its
/// own election.
#[test]
fn agent_cut_off_together_with_the_leader_never_makes_two_copies() {
    check("exiled", "dev partition leader HOME", "dev heal");
}

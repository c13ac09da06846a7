//! Sandboxes on gVisor, where it is installed: one instance of its kernel for all containers of a sandbox, on the real
//! network of a node.

use super::{LONG, await_log, logs, traces_of_nothing};
use e2e::cluster::Cluster;
use e2e::traces::Traces;
use std::io::Write;

/// What else can be seen of a node where it is not.
fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join("runsc").exists());
    if !is_there {
        // Past the capture of a test's output.
        std::io::stderr()
            .write_all(b"NOT RUN on a cluster with runsc: it is not installed\n")
            .expect("stderr");
    }
    is_there
}

const MANIFEST: &str = "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: pair
spec:
  runtime: runsc
  ports: [{container_port: 8080}]
  readiness_probe: {protocol: http, port: 8080, path: /page, initial_delay_seconds: 0, period_seconds: 1,
                    timeout_seconds: 2, success_threshold: 1, failure_threshold: 30}
  volumes: [{name: data, ephemeral_storage: 8Mi}]
  containers:
    - name: writer
      image: busybox:1.36
      args: [/bin/sh, -c, 'cat /proc/version; echo from the writer > /data/page; exec sleep 600']
      volume_mounts: [{name: data, mount_path: /data}]
      resource: {cpu: 200m, memory: 32Mi, ephemeral_storage: 16Mi}
    - name: server
      image: busybox:1.36
      args: [/bin/sh, -c, '(echo > /data/x) 2>&1; exec httpd -f -p 8080 -h /data']
      volume_mounts: [{name: data, mount_path: /data, read_only: true}]
      resource: {cpu: 200m, memory: 32Mi, ephemeral_storage: 16Mi}
";

#[test]
fn two_containers_share_one_instance_a_volume_and_a_published_port() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::up(1, &[]);
    let nodes = cluster.sbxctl(&["get", "nodes", "-o", "wide"]).ok();
    assert!(nodes.contains("runsc"), "{nodes}");
    let before = traces_of_nothing(&cluster, "agent-1");
    cluster.apply(MANIFEST, &["--wait"]).ok();
    let sandbox = cluster.get("sandbox", "pair");
    let port = &sandbox["status"]["assigned_ports"][0]["host_port"];
    let agent = cluster.member("agent-1");
    let url = format!("http://{}:{port}/page", agent.address);
    let said = cluster.inside("agent-1", &["curl", "-sS", "-m", "10", &url]).ok();
    assert_eq!(said, "from the writer\n");
    await_log(&cluster, "pair", "gvisor");
    await_log(&cluster, "pair", "Read-only file system");
    let during = Traces::of(&cluster, "agent-1");
    let kernels = during
        .processes
        .iter()
        .filter(|line| line.starts_with("runsc-sandbox"));
    assert_eq!(kernels.count(), 1, "{during:#?}");
    cluster.run("delete sandbox pair --wait").ok();
    assert_eq!(Traces::of(&cluster, "agent-1"), before);
}

#[test]
fn containers_that_end_badly_are_told_apart_and_leave_nothing() {
    if !is_installed() {
        return;
    }
    let cluster = Cluster::up(1, &[]);
    let before = traces_of_nothing(&cluster, "agent-1");
    let scripts = [
        ("bad", "echo oh no >&2; exit 7", "ContainerExited", 7, false),
        (
            "oom",
            "tail -c 500000000 /dev/zero; exit 9",
            "OOMKilled",
            137,
            true,
        ),
    ];
    for (id, script, ..) in scripts {
        let manifest = super::manifest(id, script, "runtime: runsc");
        cluster.apply(&manifest, &[]).ok();
    }
    for (id, _, reason, code, oom) in scripts {
        cluster.wait(&format!("sandbox/{id}"), "Ended", LONG).ok();
        let sandbox = cluster.get("sandbox", id);
        let (status, main) = (&sandbox["status"], &sandbox["status"]["containers"][0]);
        assert_eq!(status["reason"], reason, "{sandbox:#}");
        assert_eq!(
            (&main["exit_code"], &main["oom_killed"]),
            (&code.into(), &oom.into()),
            "{sandbox:#}"
        );
        let message = status["last_error"].as_str().unwrap_or_default();
        assert!(message.contains("main"), "{message}");
    }
    assert!(logs(&cluster, "bad").contains("oh no"));
    cluster.run("delete sandbox bad oom --wait").ok();
    assert_eq!(Traces::of(&cluster, "agent-1"), before);
}

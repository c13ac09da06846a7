//! The promise about volumes: shared at once, read-only for whom it is, ENOSPC at their size.

use super::{LONG, await_log, logs};
use e2e::cluster::Cluster;

const EXAMPLE: &str = include_str!("../../../examples/shared-volume.yaml");

#[test]
fn example_applied_through_a_follower_shares_its_volume() {
    let mut cluster = Cluster::up(1, &[]);
    let follower = cluster.member_that_is("follower");
    cluster.speak_to(&follower);
    let said = cluster.apply(EXAMPLE, &["--wait"]).ok();
    assert!(said.contains("sandbox/shared-volume created"), "{said}");
    let line = await_log(&cluster, "shared-volume", "heartbeat ");
    let stamp = line.rsplit(' ').next().expect("a timestamp").to_owned();
    assert!(stamp.starts_with("20") && stamp.ends_with('Z'), "{line}");
    assert!(line.starts_with("[reader] "), "{line}");
    let sandbox = cluster.get("sandbox", "shared-volume");
    assert_eq!(sandbox["status"]["phase"], "Running", "{sandbox:#}");
    for container in sandbox["status"]["containers"].as_array().expect("containers") {
        assert_eq!(container["state"], "Running", "{sandbox:#}");
    }
    for stage in ["pull", "network", "files", "start"] {
        assert!(
            sandbox["status"]["timings"][stage].is_u64(),
            "no timing of {stage}: {sandbox:#}"
        );
    }
}

#[test]
fn read_only_mount_is_refused_to_one_while_the_other_writes() {
    let cluster = Cluster::up(1, &[]);
    let manifest = "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: sharing
spec:
  volumes:
    - {name: data, ephemeral_storage: 8Mi}
  containers:
    - name: writer
      image: busybox:1.36
      args: [/bin/sh, -c, 'echo one > /data/file && echo written; echo two > /data/other; touch /data/done']
      volume_mounts: [{name: data, mount_path: /data}]
      resource: {cpu: 100m, memory: 32Mi}
    - name: reader
      image: busybox:1.36
      args:
        - /bin/sh
        - -c
        - 'until [ -e /data/done ]; do sleep 0.05; done; cat /data/file; echo three > /data/file || echo refused; stat -c %a /data'
      volume_mounts: [{name: data, mount_path: /data, read_only: true}]
      resource: {cpu: 100m, memory: 32Mi}
";
    cluster.apply(manifest, &[]).ok();
    cluster.wait("sandbox/sharing", "phase=Succeeded", LONG).ok();
    let said = logs(&cluster, "sharing");
    for line in [
        "[writer] written",
        "[reader] one",
        "[reader] refused",
        "Read-only file system",
        "[reader] 1777",
    ] {
        assert!(said.contains(line), "{said:?} lacks {line:?}");
    }
}

/// The container may use 16 MiB of memory itself, a fourth of the volume: were the volume not part of its
/// limit, filling it would end in an OOM kill.
#[test]
fn volume_larger_than_the_memory_limit_fills_up_to_enospc() {
    let cluster = Cluster::up(1, &[]);
    let fill = "dd if=/dev/zero of=/data/fill bs=64k; stat -c 'size %s' /data/fill; \
                dd if=/dev/zero of=/root/fill bs=64k; stat -c 'root %s' /root/fill; \
                dd if=/dev/zero of=/tmp/fill bs=64k; stat -c 'tmp %s' /tmp/fill; \
                dd if=/dev/zero of=/dev/shm/more bs=64k; echo alive";
    let manifest = format!(
        "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: full
spec:
  volumes:
    - {{name: data, ephemeral_storage: 64Mi}}
  containers:
    - name: main
      image: busybox:1.36
      args: [/bin/sh, -c, {fill:?}]
      volume_mounts: [{{name: data, mount_path: /data}}]
      resource: {{cpu: 500m, memory: 16Mi, ephemeral_storage: 64Mi}}
"
    );
    cluster.apply(&manifest, &[]).ok();
    cluster.wait("sandbox/full", "phase=Succeeded", LONG).ok();
    let said = logs(&cluster, "full");
    assert_eq!(said.matches("No space left on device").count(), 4, "{said}");
    assert!(said.contains(&format!("size {}", 64 << 20)), "{said}");
    assert!(said.contains("alive"), "{said}");
    let sandbox = cluster.get("sandbox", "full");
    assert_eq!(
        sandbox["status"]["containers"][0]["oom_killed"], false,
        "{sandbox:#}"
    );
    assert_eq!(sandbox["status"]["containers"][0]["exit_code"], 0, "{sandbox:#}");
}

#[test]
fn volume_runs_out_of_inodes_with_enospc() {
    let cluster = Cluster::up(1, &[]);
    let script = "i=0; while touch /data/$i 2>/tmp/why; do i=$((i+1)); done; cat /tmp/why; \
                  [ $i -lt 2000 ] && echo bounded";
    let manifest = format!(
        "
apiVersion: sandboxd.o/v1
kind: Sandbox
id: inodes
spec:
  volumes:
    - {{name: data, ephemeral_storage: 4Mi}}
  containers:
    - name: main
      image: busybox:1.36
      args: [/bin/sh, -c, {script:?}]
      volume_mounts: [{{name: data, mount_path: /data}}]
      resource: {{cpu: 500m, memory: 32Mi}}
"
    );
    cluster.apply(&manifest, &[]).ok();
    cluster.wait("sandbox/inodes", "Ended", LONG).ok();
    let said = logs(&cluster, "inodes");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("bounded"), "{said}");
}

//! `sbxctl cp` on a real cluster, in both directions, between a user and containers that trust each other in nothing.

use super::{LONG, manifest};
use e2e::cluster::Cluster;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Kind, mode and content of all below `dir`.
fn listing(dir: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).expect("listed") {
            let path = entry.expect("read").path();
            let stat = path.symlink_metadata().expect("there");
            let content = match stat.is_symlink() {
                true => fs::read_link(&path)
                    .expect("read")
                    .into_os_string()
                    .into_encoded_bytes(),
                false if stat.is_dir() => Vec::new(),
                false => fs::read(&path).expect("read"),
            };
            if stat.is_dir() {
                open.push(path.clone());
            }
            let name = path.strip_prefix(dir).expect("below").to_owned();
            all.push((name, stat.permissions().mode(), content));
        }
    }
    all.sort();
    all
}

/// A volume of 40 MiB at `/data`, and a program that stays.
fn with_volume(id: &str, script: &str) -> String {
    format!(
        "apiVersion: sandboxd.o/v1
kind: Sandbox
id: {id}
spec:
  volumes: [{{name: data, ephemeral_storage: 40Mi}}]
  containers:
    - name: main
      image: busybox:1.36
      args: [/bin/sh, -c, {script:?}]
      resource: {{cpu: 200m, memory: 32Mi, ephemeral_storage: 16Mi}}
      volume_mounts: [{{name: data, mount_path: /data}}]
    - name: side
      image: busybox:1.36
      args: [sleep, '600']
      resource: {{cpu: 100m, memory: 16Mi, ephemeral_storage: 16Mi}}
"
    )
}

#[test]
fn trees_go_in_and_come_out_as_they_are() {
    let mut cluster = Cluster::up(1, &[]);
    let script = "trap 'exit 0' TERM; echo ready; while sleep 0.1; do :; done";
    cluster.apply(&with_volume("box", script), &["--wait"]).ok();
    let temp = tempfile::tempdir().expect("a folder");
    let path = |name: &str| temp.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    fs::create_dir_all(path("tree/sub/empty")).expect("made");
    // Larger than all buffers on the way, and than a container's memory.
    let large: Vec<u8> = (0..9_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(path("tree/large"), &large).expect("written");
    fs::write(path("tree/sub/run"), "#!/bin/sh\n").expect("written");
    fs::set_permissions(path("tree/sub/run"), fs::Permissions::from_mode(0o751)).expect("set");
    symlink("../large", path("tree/sub/link")).expect("linked");
    fs::write(path("small"), "small").expect("written");

    cluster.run(&format!("cp {} box:/data", text("tree"))).ok();
    // Through a replica that does not lead.
    let follower = cluster.member_that_is("follower");
    cluster.speak_to(&follower);
    cluster.run(&format!("cp box:/data/tree {}", text("back"))).ok();
    cluster.speak_to_all();
    assert!(
        listing(&path("back")) == listing(&path("tree")),
        "what comes back is something else"
    );
    // As the container sees it, and through the other one, which does not have the volume.
    cluster
        .run(&format!("cp {} box:side:/etc/renamed", text("small")))
        .ok();
    cluster
        .run(&format!("cp -c side box:/etc/renamed {}", text("renamed")))
        .ok();
    assert_eq!(fs::read_to_string(path("renamed")).expect("there"), "small");
    cluster
        .run(&format!("cp box:main:/etc/renamed {}", text("none")))
        .fails(1, "No such file");
    cluster
        .run(&format!("cp box:side:/data/tree {}", text("none")))
        .fails(1, "No such file");
    // Streams: out of one container, into another, without a file between.
    let mut out = cluster.command();
    let mut out = out
        .args(["cp", "box:/data/tree/sub/.", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("sbxctl runs");
    let stream = out.stdout.take().expect("a pipe");
    let into = cluster
        .command()
        .args(["cp", "-", "box:side:/tmp/sub"])
        .stdin(stream)
        .output();
    let into = into.expect("sbxctl runs");
    assert!(
        into.status.success() && out.wait().expect("it ends").success(),
        "{into:?}"
    );
    cluster.run(&format!("cp box:side:/tmp/sub {}", text("sub"))).ok();
    assert_eq!(listing(&path("sub")), listing(&path("tree/sub")));

    // Faults are told, and leave what there is.
    cluster
        .run(&format!("cp {} box:/data/again", text("tree")))
        .fails(1, "no room left in the container");
    cluster.run(&format!("cp {} box:/data/", text("small"))).ok();
    cluster
        .run(&format!("cp {} box:/no/where", text("small")))
        .fails(1, "its directory must be");
    cluster
        .run(&format!("cp {} nobox:/tmp", text("small")))
        .fails(1, "nobox");
    cluster
        .run(&format!("cp {} box:third:/tmp", text("small")))
        .fails(1, "it has main, side");
    cluster
        .run(&format!("cp {} box:/tmp", text("missing")))
        .fails(1, "No such file");
    cluster
        .run(&format!("cp box:/etc {}", text("no/where")))
        .fails(1, "its directory must be");
    cluster.run("cp a b").fails(2, "SANDBOX:PATH");
    assert_eq!(cluster.get("sandbox", "box")["status"]["phase"], "Running");
    cluster.run("delete sandbox box --wait").ok();
}

/// The container's user wants to write to the user's files.
#[test]
fn hostile_container_gets_nothing_out_of_the_copy() {
    let cluster = Cluster::up(1, &[]);
    let temp = tempfile::tempdir().expect("a folder");
    let victim = temp.path().join("victim");
    fs::write(&victim, "mine").expect("written");
    let script = format!(
        "mkdir -p /t/a; cd /t; ln -s {victim} direct; ln -s ../../victim up; ln -s a/../../../victim sly; \
         ln -s a in; mknod fifo p; touch a/suid; chmod 4777 a/suid; echo x > \"$(printf 'e\\033[2J')\"; \
         echo ready; exec sleep 600",
        victim = victim.display()
    );
    cluster.apply(&manifest("bad", &script, ""), &["--wait"]).ok();
    super::await_log(&cluster, "bad", "ready");
    let to = temp.path().join("copy");
    let ran = cluster.run(&format!("cp bad:/t {}", to.display()));
    assert!(ran.stderr.contains("left out: "), "{ran:#?}");
    ran.ok();
    let names: Vec<PathBuf> = listing(&to).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["a", "a/suid", "e\u{1b}[2J", "in"].map(PathBuf::from));
    let mode = fs::metadata(to.join("a/suid"))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7000, 0, "{mode:o}");
    // A second time, over a link where a file comes: the link goes, and what it led to stays.
    fs::remove_file(to.join("a/suid")).expect("removed");
    symlink(&victim, to.join("a/suid")).expect("linked");
    cluster.run(&format!("cp bad:/t/. {}", to.display())).ok();
    assert_eq!(fs::read_to_string(&victim).expect("there"), "mine");
    assert!(!to.join("a/suid").is_symlink());
    // Names of the container's choosing do not reach the terminal as they are.
    let ran = cluster.run("cp bad:/t/none\u{1b}[2J /tmp/none");
    assert!(!ran.stderr.contains('\u{1b}'), "{ran:#?}");
    ran.fails(1, "No such file");
    cluster.run("delete sandbox bad --wait").ok();
    cluster.apply(&manifest("over", "exit 0", ""), &[]).ok();
    cluster.wait("sandbox/over", "Ended", LONG).ok();
    cluster.run("cp over:/etc /tmp/none").fails(1, "over");
}

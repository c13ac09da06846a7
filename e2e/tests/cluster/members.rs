//! Replicas that come and go while everything goes on.

use super::replicas::{Writers, context_of, runtime};
use super::{LONG, await_log, manifest};
use e2e::cluster::Cluster;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Numbers of the voters.
fn voters(cluster: &Cluster) -> Vec<u64> {
    let text = cluster.run("cluster members -o json").ok();
    let members: Value = serde_json::from_str(&text).expect("it is JSON");
    let replicas = members["replicas"].as_array().expect("a list").iter();
    replicas
        .filter(|replica| replica["role"] != "learner")
        .map(|replica| replica["id"].as_u64().expect("a number"))
        .collect()
}

/// A replica that was removed stops by itself.
#[track_caller]
fn await_end(cluster: &Cluster, name: &str) {
    let begun = Instant::now();
    while cluster.member(name).process != "dead" {
        assert!(begun.elapsed() < LONG, "{name} runs on");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn cluster_grows_replaces_a_dead_replica_and_shrinks_while_writes_and_sandboxes_go_on() {
    let cluster = Cluster::up(1, &["--replicas", "1"]);
    let script = "i=0; while true; do i=$((i+1)); echo beat $i; sleep 0.2; done";
    cluster.apply(&manifest("steady", script, ""), &["--wait"]).ok();
    let first = cluster.member("replica-1");
    let mut context = context_of(&cluster);
    // Those that are to come as well: a client's list is an administrator's.
    let address = |n: u64| first.address.replace(".11", &format!(".1{n}"));
    context.servers = (1..=6).map(|n| format!("https://{}:7070", address(n))).collect();
    let writers = Arc::new(Writers::default());
    let runtime = runtime();
    let running = runtime.spawn(writers.clone().run(context.clone()));
    writers.go_on(50, &running);

    for n in 2..=5 {
        let told = cluster.run("dev add replica").ok();
        assert!(told.contains(&format!("replica-{n} joined")), "{told}");
        writers.go_on(20, &running);
    }
    assert_eq!(voters(&cluster), [1, 2, 3, 4, 5]);
    // It has its certificate: no token is needed any more.
    cluster.run("dev restart replica-3").ok();
    writers.go_on(20, &running);

    // One dies for good, and another takes its place.
    let dead = (2..=5)
        .map(|n| format!("replica-{n}"))
        .find(|name| *name != cluster.leader())
        .expect("one follows");
    cluster.run(&format!("dev kill {dead}")).ok();
    std::fs::remove_dir_all(cluster.dir().join(&dead).join("data")).expect("its disk is gone");
    let told = cluster.run("dev add replica").ok();
    assert!(told.contains("replica-6 joined"), "{told}");
    let number = dead.trim_start_matches("replica-");
    cluster.run(&format!("cluster remove {number}")).ok();
    writers.go_on(20, &running);
    let back = cluster.member(&dead);
    cluster
        .run(&format!(
            "cluster add {number}=https://{0}:7071=https://{0}:7070",
            back.address
        ))
        .fails(1, "never used again; the next free one is 7");

    // The leader is no exception.
    let leader = cluster.leader();
    let number = leader.trim_start_matches("replica-");
    cluster.run(&format!("cluster remove {number}")).ok();
    await_end(&cluster, &leader);
    writers.go_on(20, &running);
    for gone in voters(&cluster).into_iter().rev().skip(1) {
        cluster.run(&format!("cluster remove {gone}")).ok();
        writers.go_on(20, &running);
        await_end(&cluster, &format!("replica-{gone}"));
    }
    let left = voters(&cluster);
    assert_eq!(left, [6]);
    cluster.run("cluster remove 6").fails(1, "the last voter");
    cluster
        .run("cluster transfer-leader")
        .fails(1, "no other voter can be reached");

    // The agent knew replica 1 alone when it began.
    cluster.wait("node/agent-1", "state=Ready", LONG).ok();
    await_log(&cluster, "steady", "beat");
    assert_eq!(cluster.get("sandbox", "steady")["status"]["phase"], "Running");
    cluster.run("delete sandbox steady --wait").ok();
    let (count, longest) = writers.settle(&runtime, running, &context);
    eprintln!("{count} writes amid changes of the membership, the longest took {longest:?}");
}

#[test]
fn leadership_moves_where_it_is_wanted() {
    let cluster = Cluster::up(0, &[]);
    let leader = cluster.leader();
    let to = (1..=3)
        .find(|n| format!("replica-{n}") != leader)
        .expect("there are three");
    let told = cluster.run(&format!("cluster transfer-leader --to {to}")).ok();
    assert_eq!(told.trim(), format!("replica/{to} leads"));
    assert_eq!(cluster.leader(), format!("replica-{to}"));
    // Asked again, it is so already.
    cluster.run(&format!("cluster transfer-leader --to {to}")).ok();
    cluster.run("cluster transfer-leader").ok();
    assert_ne!(cluster.leader(), format!("replica-{to}"));
    cluster
        .run("cluster transfer-leader --to 9")
        .fails(1, "no member");
    let table = cluster.run("cluster members").ok();
    assert!(table.starts_with("ID   ROLE"), "{table}");
    assert!(table.contains(":7071"), "{table}");
    cluster
        .run("cluster add 1=https://10.0.0.9:7071=https://10.0.0.9:7070")
        .fails(1, "is a member already");
}

#[test]
fn dead_replica_is_removed_by_itself_once_another_has_taken_its_place() {
    let cluster = Cluster::up(0, &["--replica-arg=--remove-dead-after=2s"]);
    let dead = cluster.member_that_is("follower").name;
    cluster.run(&format!("dev kill {dead}")).ok();
    // Without another one it stays, however long.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(voters(&cluster), [1, 2, 3]);
    cluster.run("dev add replica").ok();
    let number: u64 = dead.trim_start_matches("replica-").parse().expect("a number");
    let begun = Instant::now();
    while voters(&cluster).contains(&number) {
        assert!(begun.elapsed() < LONG, "it is still a member");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(voters(&cluster).len(), 3);
    // It comes back, finds out, and stops for good.
    let back = cluster.run(&format!("dev restart {dead}"));
    if back.code == 0 {
        await_end(&cluster, &dead);
    }
    cluster
        .run(&format!("dev restart {dead}"))
        .fails(1, "was removed from its cluster");
}

/// A replica that no `sbxctl dev` knows of, in the place of one of its members; ended when dropped.
struct Restored(std::process::Child);

impl Drop for Restored {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn cluster_that_was_destroyed_is_restored_and_its_sandboxes_have_run_all_the_time() {
    let mut cluster = Cluster::up(1, &[]);
    let script = "i=0; while true; do i=$((i+1)); echo beat $i; sleep 0.2; done";
    cluster.apply(&manifest("steady", script, ""), &["--wait"]).ok();
    let started = cluster.get("sandbox", "steady")["status"]["containers"][0]["started_at"].clone();
    let file = cluster.dir().join("cluster.backup");
    let name = file.display().to_string();
    let told = cluster.sbxctl(&["cluster", "backup", &name]).ok();
    assert!(told.contains("written"), "{told}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("there").permissions());
    assert_eq!(mode & 0o077, 0, "it is nobody else's");
    // What comes after it is lost.
    cluster
        .apply(&manifest("later", "sleep 600", ""), &["--wait"])
        .ok();
    for n in 1..=3 {
        cluster.run(&format!("dev kill replica-{n}")).ok();
        std::fs::remove_dir_all(cluster.dir().join(format!("replica-{n}/data"))).expect("its disk is gone");
    }

    let first = cluster.member("replica-1");
    let data = cluster.dir().join("restored");
    let tls = cluster.dir().join("identity/replica-1");
    let netns = cluster.dir().join("replica-1/netns");
    let log = cluster.dir().join("restored.log");
    let settings = |command: &mut std::process::Command| {
        command
            .env_clear()
            .args(["--listen", &format!("{}:7070", first.address)])
            .args(["--peer-listen", &format!("{}:7071", first.address)])
            .args(["--data-dir", &data.display().to_string()])
            .args(["--tls-dir", &tls.display().to_string()])
            .stdin(std::process::Stdio::null());
    };
    let program = e2e::cluster::program("sbxorch");
    let mut restore = std::process::Command::new(&program);
    restore.args(["restore", &name]);
    settings(&mut restore);
    let restored = e2e::cluster::Ran::from(restore.output().expect("sbxorch runs")).ok();
    assert!(
        restored.contains("restored 1 sandboxes and 1 nodes"),
        "{restored}"
    );
    assert!(restored.contains("as replica 4"), "{restored}");
    let mut run = std::process::Command::new("nsenter");
    run.arg(format!("--net={}", netns.display())).arg(&program);
    settings(&mut run);
    run.stderr(std::fs::File::create(&log).expect("a log"));
    let _running = Restored(run.spawn().expect("nsenter runs"));

    cluster.speak_to(&first);
    let ready = cluster.wait("node/agent-1", "state=Ready", LONG);
    assert_eq!(
        ready.code,
        0,
        "{ready:?}\n{}",
        std::fs::read_to_string(&log).unwrap_or_default()
    );
    let sandbox = cluster.get("sandbox", "steady");
    assert_eq!(sandbox["status"]["phase"], "Running", "{sandbox:#}");
    assert_eq!(
        sandbox["status"]["containers"][0]["started_at"], started,
        "{sandbox:#}"
    );
    await_log(&cluster, "steady", "beat");
    cluster.run("get sandbox later").fails(1, "later");
    // It takes new ones, and lets replicas join.
    cluster.apply(&manifest("new", "sleep 600", ""), &["--wait"]).ok();
    assert_eq!(voters(&cluster), [4]);
    cluster.run("delete sandbox steady new --wait").ok();
    cluster.speak_to_all();
}

/// By pre-votes: a term that has risen meanwhile would depose the leader at the first word.
#[test]
fn replica_that_was_cut_off_deposes_nobody_when_it_comes_back() {
    let cluster = Cluster::up(0, &[]);
    let term = || {
        let text = cluster.run("cluster members -o json").ok();
        let members: Value = serde_json::from_str(&text).expect("it is JSON");
        members["term"].as_u64().expect("a number")
    };
    let (leader, before) = (cluster.leader(), term());
    let follower = cluster.member_that_is("follower").name;
    cluster.run(&format!("dev partition {follower}")).ok();
    // Some elections long.
    std::thread::sleep(Duration::from_secs(2));
    cluster.run("dev heal").ok();
    let begun = Instant::now();
    let text = || cluster.run("cluster members").ok();
    while text().lines().any(|line| line.contains(" no ")) {
        assert!(begun.elapsed() < LONG, "{}", text());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((cluster.leader(), term()), (leader, before));
}

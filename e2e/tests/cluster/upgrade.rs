//! A rolling upgrade: replicas of two versions run together, and no write of one is read otherwise by another.

use super::replicas::{Writers, context_of, runtime};
use super::{LONG, await_log, manifest};
use e2e::cluster::Cluster;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the old version speaks, and the present one.
const OLD: u32 = 1;
const NEW: u32 = 2;

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Waits until the leader tells so of the members.
#[track_caller]
fn await_members(cluster: &Cluster, what: &str, is_so: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let members = json(&cluster.run("cluster members -o json").ok());
        if is_so(&members) {
            return;
        }
        assert!(begun.elapsed() < LONG, "never {what}: {members:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The level in force is this, and the replicas speak these.
fn levels(in_force: u32, spoken: [u32; 3]) -> impl Fn(&Value) -> bool {
    move |members| {
        let replicas = members["replicas"].as_array().expect("a list");
        let all = replicas.iter().zip(spoken);
        members["level"] == in_force
            && all
                .clone()
                .all(|(replica, level)| replica["level"] == level && replica["version"].is_string())
            && all.count() == spoken.len()
    }
}

/// As an operator does it: SIGTERM, and the program again.
#[track_caller]
fn exchange(cluster: &Cluster, name: &str) {
    let pid = cluster.member(name).pid.expect("it runs");
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("it is there");
    let begun = Instant::now();
    while cluster.member(name).process != "dead" {
        assert!(begun.elapsed() < LONG, "{name} runs on");
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.run(&format!("dev restart {name}")).ok();
}

/// All replicas hold the same, byte for byte, each after the same entry of the log.
#[track_caller]
fn check_same(cluster: &Cluster) {
    let checked = json(&cluster.run("cluster check -o json").ok());
    let replicas = checked.as_array().expect("a list");
    assert_eq!(replicas.len(), 3, "{checked:#}");
    for replica in replicas {
        assert_eq!(replica["index"], replicas[0]["index"], "{checked:#}");
        assert_eq!(replica["sum"], replicas[0]["sum"], "{checked:#}");
        assert_eq!(replica["sum"].as_str().map(str::len), Some(64), "{checked:#}");
    }
}

#[test]
fn cluster_is_upgraded_replica_by_replica_while_writes_and_sandboxes_go_on() {
    let mut cluster = Cluster::of_version(Some(OLD), 1, &[]);
    await_members(&cluster, "at the old level", levels(OLD, [OLD; 3]));
    let script = "i=0; while true; do i=$((i+1)); echo beat $i; sleep 0.2; done";
    cluster.apply(&manifest("steady", script, ""), &["--wait"]).ok();
    let started = cluster.get("sandbox", "steady")["status"]["containers"][0]["started_at"].clone();
    let context = context_of(&cluster);
    let writers = Arc::new(Writers::default());
    let runtime = runtime();
    let running = runtime.spawn(writers.clone().run(context.clone()));
    writers.go_on(50, &running);

    cluster.start_version(None);
    for n in 1..=3 {
        let old: Vec<String> = (n..=3)
            .map(|old| format!("replica {old} is at level {OLD}"))
            .collect();
        let refused = cluster.run("cluster check");
        assert_eq!(refused.code, 1, "{refused:#?}");
        assert!(
            refused
                .stderr
                .contains("needs all replicas to be at level 2 or later")
                && old.iter().all(|old| refused.stderr.contains(old)),
            "{refused:#?} does not say {old:?}"
        );
        exchange(&cluster, &format!("replica-{n}"));
        if n < 3 {
            let spoken = [1, 2, 3].map(|other| if other <= n { NEW } else { OLD });
            await_members(&cluster, "partly upgraded", levels(OLD, spoken));
            writers.go_on(50, &running);
            await_members(
                &cluster,
                "partly upgraded, and at the old level",
                levels(OLD, spoken),
            );
        }
    }
    await_members(&cluster, "at the new level", levels(NEW, [NEW; 3]));
    writers.go_on(50, &running);
    check_same(&cluster);

    // There is no way back: the old version does not start, and says why.
    cluster.start_version(Some(OLD));
    let follower = cluster.member_that_is("follower").name;
    cluster.run(&format!("dev kill {follower}")).ok();
    cluster.run(&format!("dev restart {follower}")).fails(
        1,
        "level 2 is in force in this cluster, and this version of sbxorch speaks level 1 at most: start a newer version",
    );
    writers.go_on(50, &running);
    cluster.start_version(None);
    cluster.run(&format!("dev restart {follower}")).ok();

    let (count, longest) = writers.settle_but(&["steady"], &runtime, running, &context);
    check_same(&cluster);
    let sandbox = cluster.get("sandbox", "steady");
    assert_eq!(sandbox["status"]["phase"], "Running", "{sandbox:#}");
    assert_eq!(
        sandbox["status"]["containers"][0]["started_at"], started,
        "{sandbox:#}"
    );
    await_log(&cluster, "steady", "beat 20");
    cluster.run("delete sandbox steady --wait").ok();
    eprintln!("{count} writes amid the upgrade, the longest took {longest:?}");
}

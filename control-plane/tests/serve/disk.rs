//! A replica whose disk is full: refuses in time, goes on when there is room. On a small file system of its own, which
//! holds its log lines as well. Needs root.

use crate::cluster::within;
use crate::several::{NEEDED_MIB, Replica, three};
use crate::user::*;
use prost::Message;
use proto::wire::{self, Kind};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tonic::{Code, Status};

/// RocksDB alone sets some 20 MiB aside for each of its two logs.
const DISK_MIB: u64 = 128;

/// A file system in memory; gone when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mounted.expect("there is a mount").success(), "run it as root");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn free_mib(&self) -> u64 {
        let told = Command::new("df")
            .args(["--output=avail", "-m"])
            .arg(self.path())
            .output()
            .expect("there is a df");
        let text = String::from_utf8(told.stdout).expect("it is text");
        text.lines()
            .last()
            .and_then(|l| l.trim().parse().ok())
            .expect("a number")
    }

    /// Leaves so much.
    fn fill(&self, name: &str, left_mib: u64) -> PathBuf {
        let path = self.path().join(name);
        let mut file = File::create(&path).expect("made");
        let block = vec![1; 1 << 20];
        while self.free_mib() > left_mib {
            file.write_all(&block).expect("there is room");
        }
        path
    }

    /// Leaves nothing.
    fn fill_up(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        let mut file = File::create(&path).expect("made");
        for size in [1 << 20, 4096, 1] {
            let block = vec![1; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.path()).status().ok();
    }
}

#[track_caller]
fn assert_full(answer: Result<(), Status>) {
    let status = answer.expect_err("it is refused");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(
        status.message().contains("the disk of replica 1 is nearly full"),
        "{status:?}"
    );
    assert!(status.message().contains("free space"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_refuses_before_its_disk_is_full_and_goes_on_when_there_is_room() {
    let disk = Disk::mount();
    let mut replica = Replica::start(disk.path(), 30, None);
    replica.applied("first").await;
    replica.applied("second").await;
    let filler = disk.fill("filler", NEEDED_MIB / 2);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_full(replica.apply("third").await);
    // What makes room is taken.
    let delete = wire::DeleteRequest {
        request_id: request_id(),
        kind: Kind::External.into(),
        id: "first".to_owned(),
        force: false,
    };
    replica
        .control()
        .delete(delete.clone())
        .await
        .expect("it is deleted");
    // Somebody else takes all there is, and the reserve that was given up for it.
    let rest = disk.fill_up("rest");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_full(replica.apply("third").await);
    let more = disk.fill_up("more");
    assert_full(replica.apply("third").await);
    let delete = wire::DeleteRequest {
        request_id: request_id(),
        id: "second".to_owned(),
        ..delete
    };
    let refused = replica
        .control()
        .delete(delete)
        .await
        .expect_err("nothing is written");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    // Reads go on.
    get(&mut replica.control(), Kind::External, "second")
        .await
        .expect("it is there");
    assert!(replica.child.try_wait().expect("it is ours").is_none(), "it runs");
    for file in [filler, rest, more] {
        std::fs::remove_file(file).expect("removed");
    }
    replica.applied("third").await;
    assert!(replica.child.try_wait().expect("it is ours").is_none(), "it runs");
    let log = std::fs::read_to_string(disk.path().join("log")).expect("it is text");
    assert!(log.contains("the disk has room again"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_whose_disk_is_full_lags_and_catches_up_while_the_others_go_on() {
    let disk = Disk::mount();
    let dirs = [0, 1].map(|_| tempfile::tempdir().expect("a folder"));
    let [leader, mut full, _third] = three([dirs[0].path(), disk.path(), dirs[1].path()], 31).await;
    let endpoint = full.endpoint.clone();
    let until = async |what: &str, is_so: &dyn Fn(&[wire::Replica]) -> bool| {
        let so = async {
            while !is_so(&leader.members().await.replicas) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(what, so).await;
    };
    let filler = disk.fill("filler", NEEDED_MIB / 8);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for n in 0..20 {
        leader.apply(&format!("e{n}")).await.expect("the others go on");
    }
    let lags = |all: &[wire::Replica]| all.iter().any(|r| r.endpoint == endpoint && r.lag >= 20);
    until("a lag", &lags).await;
    assert!(full.child.try_wait().expect("it is ours").is_none(), "it runs");
    std::fs::remove_file(filler).expect("removed");
    until("no lag", &|all| all.iter().all(|r| r.lag == 0)).await;
    let log = std::fs::read_to_string(disk.path().join("log")).expect("it is text");
    assert!(log.contains("the disk is full"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_whose_disk_is_nearly_full_lets_one_lead_that_has_room() {
    let disks = [Disk::mount(), Disk::mount()];
    let dir = tempfile::tempdir().expect("a folder");
    let [first, second, third] = three([disks[0].path(), disks[1].path(), dir.path()], 34).await;
    let fillers = disks.each_ref().map(|disk| disk.fill("filler", NEEDED_MIB / 2));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let status = first.apply("a").await.expect_err("it leads no more");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let detail = wire::ErrorDetail::decode(status.details()).expect("a detail");
    let Some(wire::error_detail::Detail::NotLeader(told)) = detail.detail else {
        panic!("{status:?}");
    };
    // Never the second one, whose disk is no better.
    assert_eq!(told.endpoint, third.endpoint, "{status:?}");
    third.applied("a").await;
    // Where nobody has room, the leader stays and says so.
    drop(third);
    for filler in fillers {
        std::fs::remove_file(filler).expect("removed");
    }
    within("another leader", async {
        while first.apply("b").await.is_err() && second.apply("b").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let _fillers = disks.each_ref().map(|disk| disk.fill("filler", NEEDED_MIB / 2));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refusals = [first.apply("c").await, second.apply("c").await];
    let full = refusals.iter().flat_map(|refusal| refusal.as_ref().err());
    let full = full.filter(|status| status.message().contains("nearly full"));
    assert_eq!(full.count(), 1, "{refusals:?}");
}

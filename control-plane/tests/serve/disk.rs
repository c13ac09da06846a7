//! A replica whose disk is full: refuses in time, goes on when there is room. On a small file system of its own, which
//! holds its log lines as well. Needs root.

use crate::cluster::{Service, within};
use crate::identity::Bearer;
use crate::process::{host, sbxorch};
use crate::user::*;
use proto::wire::control_client::ControlClient;
use proto::wire::{self, Kind};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// RocksDB alone sets some 20 MiB aside for each of its two logs.
const DISK_MIB: u64 = 128;
const NEEDED_MIB: u64 = 24;

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

struct Replica {
    child: Child,
    endpoint: String,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Replica {
    /// With its data and its log in `dir`; the first of a cluster, or one that joins `first`.
    fn start(dir: &Path, number: u8, first: Option<&Self>) -> Self {
        let host = host(number);
        let (endpoint, peer) = (format!("http://{host}:7070"), format!("http://{host}:7071"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .expect("made");
        let cluster = match first {
            None => vec![
                "--id".to_owned(),
                "1".to_owned(),
                "--initial-cluster".to_owned(),
                format!("1={peer}={endpoint}"),
            ],
            Some(first) => vec!["--join".to_owned(), first.endpoint.clone()],
        };
        let child = sbxorch()
            .args(["--insecure", "--log", "info,openraft=error"])
            .args(["--min-free-disk", &format!("{NEEDED_MIB}Mi")])
            .arg("--data-dir")
            .arg(dir.join("data"))
            .args(cluster)
            .args([
                "--listen",
                &format!("{host}:7070"),
                "--peer-listen",
                &format!("{host}:7071"),
            ])
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the program is there");
        Self { child, endpoint }
    }

    fn control(&self) -> ControlClient<Service> {
        let channel = Channel::from_shared(self.endpoint.clone()).expect("a URL");
        ControlClient::new(InterceptedService::new(channel.connect_lazy(), Bearer(None)))
    }

    async fn apply(&self, id: &str) -> Result<(), Status> {
        let request = apply_request(external(id, id, "a.test"));
        self.control().apply(request).await.map(drop)
    }

    async fn applied(&self, id: &str) {
        let applied = async {
            while self.apply(id).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("a write", applied).await;
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
    let leader = Replica::start(dirs[0].path(), 31, None);
    leader.applied("first").await;
    let mut full = Replica::start(disk.path(), 32, Some(&leader));
    let _third = Replica::start(dirs[1].path(), 33, Some(&leader));
    let members = async || {
        let request = wire::ClusterRequest { stale: true };
        let asked = leader.control().cluster(request).await;
        asked
            .map(|answer| answer.into_inner().replicas)
            .unwrap_or_default()
    };
    let endpoint = full.endpoint.clone();
    let until = async |what: &str, is_so: &dyn Fn(&[wire::Replica]) -> bool| {
        let so = async {
            while !is_so(&members().await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(what, so).await;
    };
    until("three voters", &|all| {
        all.iter().filter(|r| r.voter && r.lag == 0).count() == 3
    })
    .await;
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

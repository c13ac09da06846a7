//! Snapshots over a network that breaks: real gRPC through a relay that counts, and cuts.

use super::Cluster;
use super::cluster::PATIENCE;
use crate::raft::Replica;
use proto::wire;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 128 << 10;
/// What the state holds, in objects of a MiB.
const OBJECTS: u64 = 48;
/// What may be under way when a connection is cut, and is lost: windows, sockets, pieces.
const UNDER_WAY: u64 = 12 * MIB;

/// Passes connections on. Cuts them all once so many bytes went towards the replica, and then no more.
#[derive(Clone)]
struct Relay {
    to: SocketAddr,
    passed: Arc<AtomicU64>,
    cut_at: u64,
    cut: CancellationToken,
}

impl Relay {
    async fn start(to: SocketAddr, cut_at: u64) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let relay = Self {
            to,
            passed: Arc::default(),
            cut_at,
            cut: CancellationToken::new(),
        };
        let own = relay.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(own.clone().pass(from));
            }
        });
        (relay, url)
    }

    async fn pass(self, from: TcpStream) {
        let Ok(to) = TcpStream::connect(self.to).await else {
            return;
        };
        let was_cut = self.cut.is_cancelled();
        let (mut from_read, mut from_write) = from.into_split();
        let (mut to_read, mut to_write) = to.into_split();
        let there = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let len = from_read.read(&mut buffer).await.unwrap_or(0);
                if len == 0 || to_write.write_all(&buffer[..len]).await.is_err() {
                    return;
                }
                let passed = self.passed.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
                if passed >= self.cut_at {
                    self.cut.cancel();
                }
            }
        };
        let back = tokio::io::copy(&mut to_read, &mut from_write);
        tokio::select! {
            () = there => {}
            _ = back => {}
            // Connections that are made afterwards last.
            () = self.cut.cancelled(), if !was_cut => {}
        }
    }
}

/// A sandbox of a MiB that compresses little, with its request.
fn large(number: u64) -> wire::Command {
    let mut random = StdRng::seed_from_u64(number);
    // Repeated at a distance at which LZ4 does not look.
    let block: String = (0..BLOCK)
        .map(|_| char::from(random.random_range(b'!'..=b'~')))
        .collect();
    let text = block.repeat(usize::try_from(MIB / BLOCK).expect("few"));
    let container = wire::Container {
        name: "main".to_owned(),
        image: "docker.io/library/busybox:1.36".to_owned(),
        env: vec![format!("LARGE={text}")],
        cpu_milli: 100,
        memory_bytes: 32 << 20,
        ephemeral_storage_bytes: 16 << 20,
        ..Default::default()
    };
    let spec = wire::SandboxSpec {
        containers: vec![container],
        ..Default::default()
    };
    let manifest = wire::Manifest {
        id: format!("large-{number}"),
        spec: Some(wire::manifest::Spec::Sandbox(spec)),
        ..Default::default()
    };
    wire::Command {
        request_id: format!("request-{number}"),
        op: Some(wire::command::Op::Apply(wire::ApplyObject {
            manifest: Some(manifest),
            ..Default::default()
        })),
    }
}

/// A leader whose log does not go back to its begin any more; the bytes of its snapshot.
async fn large_leader() -> (Cluster, Replica, u64) {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    for number in 0..OBJECTS {
        leader.propose(large(number)).await.expect("taken");
    }
    let raft = cluster.raft(1);
    let applied = leader.replicated().read().index();
    raft.trigger().snapshot().await.expect("it runs");
    let wait = raft.wait(Some(PATIENCE));
    wait.metrics(|m| m.snapshot.is_some_and(|at| at.index >= applied), "a snapshot")
        .await
        .expect("it is built");
    raft.trigger().purge_log(applied).await.expect("it runs");
    wait.metrics(|m| m.purged.is_some_and(|at| at.index >= applied), "purged")
        .await
        .expect("it is purged");
    let size = raft
        .get_snapshot()
        .await
        .expect("it runs")
        .expect("it is there")
        .snapshot
        .size();
    (cluster, leader, size)
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_whose_connection_is_cut_goes_on_from_there() {
    let (mut cluster, leader, size) = large_leader().await;
    assert!(size > OBJECTS * MIB * 3 / 4, "{size} bytes");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let own = listener.local_addr().expect("bound");
    let (relay, url) = Relay::start(own, size * 2 / 3).await;
    let member = cluster.newcomer_at(listener, Some(url)).await;
    let id = member.id;
    leader.add_member(member).await.expect("taken in");
    let newcomer = cluster.replica(id);
    let mut applied = newcomer.replicated().applied();
    let goal = leader.replicated().read().index();
    let caught_up = applied.wait_for(|index| *index >= goal);
    let caught_up = tokio::time::timeout(PATIENCE, caught_up).await;
    caught_up.expect("in time").expect("it runs");
    assert!(relay.cut.is_cancelled(), "it was cut");
    let passed = relay.passed.load(Ordering::Relaxed);
    assert!(passed >= size, "{passed} of {size} bytes");
    assert!(
        passed <= size + UNDER_WAY,
        "{passed} bytes were sent for {size}: some of them twice"
    );
    assert_eq!(
        newcomer.replicated().read().digest(),
        leader.replicated().read().digest()
    );
}

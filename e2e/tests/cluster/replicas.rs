//! High availability: any replica answers, a lost leader costs a pause and nothing that was acknowledged.

use super::{LONG, await_log, manifest};
use cli::client::Client;
use cli::context;
use e2e::cluster::{Cluster, Member};
use identity::dial::{Dialer, Protocols};
use prost::Message;
use proto::object::Kind;
use proto::wire::{self, control_client::ControlClient, error_detail::Detail};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// How long the contract lets a write wait for a new leader, with room for a machine that builds meanwhile.
const FAILOVER: Duration = Duration::from_secs(5);

/// A write waits for an election and for somebody to notice; the contract says a second for both. Best of some trials on a
/// machine that does much else; a client that waited for each replica alone needed 2 s every time.
const TAKEOVER: Duration = Duration::from_millis(1_500);
const TRIALS: usize = 3;

/// How the cluster is reached, as its administrator.
pub(crate) fn context_of(cluster: &Cluster) -> context::File {
    let path = cluster.dir().join("identity").join(context::FILE);
    context::File::read(&path).expect("the cluster has an identity")
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A sandbox that no node takes, so that writes alone are tested.
fn unplaceable(id: &str) -> proto::spec::Manifest {
    let text = manifest(id, "true", "node_selector: {nowhere: 'true'}");
    proto::manifest::parse(&text).expect("it is good").remove(0)
}

#[test]
fn follower_answers_a_write_with_the_leader() {
    let cluster = Cluster::up(0, &[]);
    let (leader, follower) = (
        cluster.member_that_is("leader"),
        cluster.member_that_is("follower"),
    );
    let context = context_of(&cluster);
    let authority = std::fs::read_to_string(context.ca.expect("it has one")).expect("read");
    let token = std::fs::read_to_string(context.token.expect("it has one")).expect("read");
    let request = wire::ApplyRequest {
        request_id: uuid::Uuid::now_v7().to_string(),
        manifest: Some((&unplaceable("redirected")).into()),
        replace: false,
        resource_version: None,
    };
    let status = runtime().block_on(async {
        let dialer = Dialer::trusting(&authority).expect("it is readable");
        let endpoint = dialer.endpoint(&follower.endpoint()).expect("a URL");
        let channel = dialer.connect(&endpoint).await.expect("connected");
        let mut request = tonic::Request::new(request);
        let bearer = format!("Bearer {}", token.trim());
        request
            .metadata_mut()
            .insert("authorization", bearer.parse().expect("text"));
        ControlClient::new(channel)
            .apply(request)
            .await
            .expect_err("a follower does not write")
    });
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    let detail = wire::ErrorDetail::decode(status.details())
        .expect("a detail")
        .detail;
    let Some(Detail::NotLeader(told)) = detail else {
        panic!("{detail:?}");
    };
    assert_eq!(told.endpoint, leader.endpoint());
    assert_eq!(format!("replica-{}", told.leader_id), leader.name);
}

#[test]
fn read_on_any_replica_sees_what_was_acknowledged_before_it() {
    let mut cluster = Cluster::up(0, &[]);
    let replicas = cluster.members();
    for round in 0..5 {
        let id = format!("seen-{round}");
        cluster.speak_to_all();
        cluster
            .apply(&manifest(&id, "true", "node_selector: {nowhere: 'true'}"), &[])
            .ok();
        for replica in &replicas {
            cluster.speak_to(replica);
            assert_eq!(cluster.get("sandbox", &id)["id"], id.as_str(), "at {replica:?}");
        }
    }
}

/// Applies from several clients at once, while the leader is taken away.
#[derive(Default)]
pub(crate) struct Writers {
    stop: AtomicBool,
    written: AtomicUsize,
    acknowledged: Mutex<BTreeMap<String, u64>>,
    longest: Mutex<Duration>,
}

impl Writers {
    const CLIENTS: usize = 4;

    pub(crate) async fn run(self: Arc<Self>, context: context::File) {
        let clients = (0..Self::CLIENTS).map(|n| self.clone().client(n, context.clone()));
        futures::future::join_all(clients).await;
    }

    async fn client(self: Arc<Self>, n: usize, context: context::File) {
        let client = Client::of(&context, Duration::from_secs(30)).expect("a client");
        for i in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let id = format!("write-{n}-{i}");
            let begun = Instant::now();
            let answer = client
                .apply(&unplaceable(&id), false)
                .await
                .expect("users see a pause, never an error");
            assert_eq!(answer.outcome(), wire::Outcome::Created, "{id} took effect twice");
            let Some(wire::object::Object::Sandbox(sandbox)) = answer.object.and_then(|o| o.object) else {
                panic!("{id} came back without its object");
            };
            self.acknowledged.lock().expect("whole").insert(id, sandbox.uid);
            let mut longest = self.longest.lock().expect("whole");
            *longest = (*longest).max(begun.elapsed());
            self.written.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for so many writes more.
    #[track_caller]
    pub(crate) fn go_on(&self, count: usize, running: &JoinHandle<()>) {
        let (begun, goal) = (Instant::now(), self.written.load(Ordering::Relaxed) + count);
        while self.written.load(Ordering::Relaxed) < goal {
            assert!(begun.elapsed() < LONG, "writes have stopped");
            assert!(!running.is_finished(), "a writer has failed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends them, and compares what was acknowledged with what is there. How many there are, and the longest.
    #[track_caller]
    pub(crate) fn settle(
        &self,
        runtime: &Runtime,
        running: JoinHandle<()>,
        context: &context::File,
    ) -> (usize, Duration) {
        self.settle_but(&[], runtime, running, context)
    }

    /// The same, where these are there as well.
    #[track_caller]
    pub(crate) fn settle_but(
        &self,
        others: &[&str],
        runtime: &Runtime,
        running: JoinHandle<()>,
        context: &context::File,
    ) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        runtime.block_on(running).expect("all writers ended well");
        let acknowledged = self.acknowledged.lock().expect("whole").clone();
        let client = Client::of(context, LONG).expect("a client");
        let request = wire::ListRequest {
            kind: wire::Kind::Sandbox.into(),
            ..Default::default()
        };
        let there = runtime.block_on(client.list(&request)).expect("listed").items;
        let there: BTreeMap<String, u64> = there
            .into_iter()
            .filter_map(|item| match item.object? {
                wire::object::Object::Sandbox(s) if others.contains(&s.id.as_str()) => None,
                wire::object::Object::Sandbox(s) => Some((s.id, s.uid)),
                _ => None,
            })
            .collect();
        assert_eq!(
            there, acknowledged,
            "what is there is what was acknowledged, made once"
        );
        (acknowledged.len(), *self.longest.lock().expect("whole"))
    }
}

/// Takes the leader away by `sbxctl dev <verb> leader` during a stream of applies and compares what was
/// acknowledged with what is there.
#[track_caller]
fn check_leader_lost(verb: &str, back: &str) {
    let cluster = Cluster::up(0, &[]);
    let context = context_of(&cluster);
    let leader = cluster.member_that_is("leader");
    let writers = Arc::new(Writers::default());
    let runtime = runtime();
    let running = runtime.spawn(writers.clone().run(context.clone()));
    writers.go_on(100, &running);
    cluster.run(&format!("dev {verb} {}", leader.name)).ok();
    writers.go_on(200, &running);
    assert_ne!(cluster.leader(), leader.name);
    cluster.run(back.replace("LEADER", &leader.name).as_str()).ok();
    writers.go_on(200, &running);
    let (count, longest) = writers.settle(&runtime, running, &context);
    assert!(longest < FAILOVER, "a write waited for {longest:?}");
    eprintln!("{verb}: {count} writes, the longest took {longest:?}");
}

#[test]
fn leader_killed_during_applies_loses_nothing_and_doubles_nothing() {
    check_leader_lost("kill", "dev restart LEADER");
}

#[test]
fn leader_paused_during_applies_loses_nothing_and_doubles_nothing() {
    check_leader_lost("pause", "dev resume LEADER");
}

#[test]
fn leader_cut_off_during_applies_loses_nothing_and_doubles_nothing() {
    check_leader_lost("partition", "dev heal");
}

/// Takes the leader away by `sbxctl dev <verb>` for a client that speaks to it, one that knows the others alone, and one
/// that reads at another.
#[track_caller]
fn check_pause(verb: &str, back: &str) {
    let cluster = Cluster::up(0, &[]);
    let context = context_of(&cluster);
    let runtime = runtime();
    let mut shortest = [Duration::MAX; 3];
    for trial in 0..TRIALS {
        let leader = cluster.member(&cluster.leader());
        let mut servers = context.servers.clone();
        servers.retain(|server| *server != leader.endpoint());
        let others = context::File {
            servers,
            ..context.clone()
        };
        let [faithful, other, reader] =
            [&context, &others, &others].map(|context| Client::of(context, LONG).expect("a client"));
        let write = async |client: &Client, name: &str| {
            let manifest = unplaceable(&format!("{name}-{trial}"));
            client.apply(&manifest, false).await.expect("written");
            Instant::now()
        };
        let read = async |client: &Client| {
            client.cluster(false).await.expect("read");
            Instant::now()
        };
        // Connected before, as clients are.
        runtime.block_on(async { tokio::join!(write(&faithful, "before"), read(&other), read(&reader)) });
        cluster.run(&format!("dev {verb} {}", leader.name)).ok();
        let begun = Instant::now();
        let done = runtime.block_on(async {
            tokio::join!(write(&faithful, "same"), write(&other, "other"), read(&reader))
        });
        for (shortest, done) in shortest.iter_mut().zip([done.0, done.1, done.2]) {
            *shortest = (*shortest).min(done - begun);
        }
        cluster.run(&back.replace("LEADER", &leader.name)).ok();
    }
    eprintln!("{verb}: {shortest:?}");
    assert!(shortest.iter().all(|took| *took < TAKEOVER), "{shortest:?}");
}

#[test]
fn frozen_leader_is_a_pause_shorter_than_any_timeout() {
    check_pause("pause", "dev resume LEADER");
}

#[test]
fn leader_that_is_cut_off_is_a_pause_shorter_than_any_timeout() {
    check_pause("partition", "dev heal");
}

/// Whether a replica says of itself that it is ready.
async fn is_ready(dialer: &Dialer, replica: &Member) -> bool {
    let url = format!("{}/readyz", replica.endpoint());
    let url = url.parse().expect("a URL");
    let mut stream = dialer.open(&url, Protocols::Http1).await.expect("connected");
    let question = "GET /readyz HTTP/1.1\r\nhost: replica\r\nconnection: close\r\n\r\n";
    stream.write_all(question.as_bytes()).await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer.starts_with("HTTP/1.1 200 ")
}

#[test]
fn follower_that_is_cut_off_is_not_ready_until_it_hears_a_leader_again() {
    let mut cluster = Cluster::up(0, &[]);
    let follower = cluster.member_that_is("follower");
    let authority = context_of(&cluster).ca.expect("it has one");
    let authority = std::fs::read_to_string(authority).expect("read");
    let dialer = Dialer::trusting(&authority).expect("it is readable");
    let runtime = runtime();
    let until = |ready: bool| {
        let so = async {
            while is_ready(&dialer, &follower).await != ready {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let so = async { tokio::time::timeout(LONG, so).await };
        runtime
            .block_on(so)
            .unwrap_or_else(|_| panic!("never ready: {ready}"));
    };
    until(true);
    cluster.run(&format!("dev partition {}", follower.name)).ok();
    until(false);
    cluster.speak_to(&follower);
    cluster.run("get nodes --stale").ok();
    cluster.speak_to_all();
    cluster.run("dev heal").ok();
    until(true);
}

#[test]
fn sandboxes_run_on_while_replicas_are_lost_and_after_all_restart() {
    let cluster = Cluster::up(1, &[]);
    let script = "i=0; while true; do i=$((i+1)); echo beat $i; sleep 0.2; done";
    cluster.apply(&manifest("steady", script, ""), &["--wait"]).ok();
    let started = cluster.get("sandbox", "steady")["status"]["containers"][0]["started_at"].clone();
    cluster.run("dev kill leader").ok();
    cluster
        .apply(&manifest("after", "sleep 600", ""), &["--wait"])
        .ok();
    await_log(&cluster, "steady", "beat 15");
    // No replica is left, and still it runs.
    cluster.run("dev kill leader").ok();
    cluster
        .run("get sandboxes --request-timeout 2s")
        .fails(4, "no replica could answer");
    let stale = cluster.run("get sandboxes --stale -o json").ok();
    assert!(stale.contains("steady"), "{stale}");
    for replica in cluster.members().iter().filter(|m| m.name.starts_with("replica")) {
        cluster.run(&format!("dev restart {}", replica.name)).ok();
    }
    cluster.wait("node/agent-1", "state=Ready", LONG).ok();
    let sandbox = cluster.get("sandbox", "steady");
    assert_eq!(sandbox["status"]["phase"], "Running", "{sandbox:#}");
    assert_eq!(
        sandbox["status"]["containers"][0]["started_at"], started,
        "{sandbox:#}"
    );
    let client = Client::of(&context_of(&cluster), LONG).expect("a client");
    runtime()
        .block_on(client.delete(Kind::Sandbox, "steady", false))
        .expect("deleted");
    cluster.wait("sandbox/steady", "deleted", LONG).ok();
}

#[test]
fn logs_are_followed_over_a_change_of_leader_without_a_line_lost_or_doubled() {
    use std::io::{BufRead, BufReader};
    let cluster = Cluster::up(1, &[]);
    let script = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.1; done";
    cluster.apply(&manifest("talks", script, ""), &["--wait"]).ok();
    let mut follow = cluster.start("logs -f talks");
    let lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    let mut said = Vec::new();
    for line in lines.map_while(Result::ok) {
        said.push(line);
        if said.len() == 10 {
            cluster.run("dev kill leader").ok();
        }
    }
    assert!(follow.wait().expect("it ends").success());
    let expected: Vec<String> = (0..60).map(|i| format!("line {i}")).collect();
    assert_eq!(said, expected);
}

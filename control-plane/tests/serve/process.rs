//! The program itself: its command line, its signals, and a pause of the whole process.

use crate::agent::Agent;
use crate::cluster::{Service, within};
use crate::identity::Bearer;
use crate::user::{apply_request, get, sandbox};
use control_plane::clock;
use e2e::collector::Collector;
use identity::authority::Authority;
use identity::principal::Principal;
use proto::wire::agent_client::AgentClient;
use proto::wire::control_client::ControlClient;
use proto::wire::{self, Kind, object::Object};
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

/// A cluster of one, as a process. Killed when dropped.
struct Process {
    child: Child,
    endpoint: String,
    members: String,
    _dir: tempfile::TempDir,
}

pub(crate) fn sbxorch() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sbxorch"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// An address of loopback's that no other test has.
pub(crate) fn host(number: u8) -> String {
    let [a, b] = u16::try_from(std::process::id() % 60_000)
        .expect("it is small")
        .to_be_bytes();
    format!("127.{}.{b}.{}", 1 + a, 250 - number)
}

impl Process {
    /// Not part of a cluster yet. `number` is unique among the tests of this file.
    fn start(number: u8, variables: &[(&str, &str)]) -> Self {
        let host = host(number);
        let (endpoint, peer) = (format!("http://{host}:7070"), format!("http://{host}:7071"));
        let dir = tempfile::tempdir().expect("a folder for the test");
        let data = dir.path().join("data").display().to_string();
        let child = sbxorch()
            .args(["--id", "1", "--insecure", "--data-dir", &data])
            .args([
                "--listen",
                &format!("{host}:7070"),
                "--peer-listen",
                &format!("{host}:7071"),
            ])
            .args(["--heartbeat", "100ms", "--node-grace", "1s", "--node-lease", "3s"])
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is there");
        Self {
            child,
            members: format!("1={peer}={endpoint}"),
            endpoint,
            _dir: dir,
        }
    }

    fn channel(&self) -> Channel {
        Channel::from_shared(self.endpoint.clone())
            .expect("a URL")
            .connect_lazy()
    }

    fn control(&self) -> ControlClient<Service> {
        ControlClient::new(InterceptedService::new(self.channel(), Bearer(None)))
    }

    /// One more replica that asks this cluster to take it in, without a number.
    fn joining(&self, number: u8) -> Self {
        let host = host(number);
        let dir = tempfile::tempdir().expect("a folder for the test");
        let data = dir.path().join("data").display().to_string();
        let child = sbxorch()
            .args(["--insecure", "--data-dir", &data, "--join", &self.endpoint])
            .args([
                "--listen",
                &format!("{host}:7070"),
                "--peer-listen",
                &format!("{host}:7071"),
            ])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program is there");
        Self {
            child,
            members: String::new(),
            endpoint: format!("http://{host}:7070"),
            _dir: dir,
        }
    }

    /// Ends it as an administrator does; what it has logged.
    fn terminate(mut self) -> String {
        self.signal("TERM");
        let status = tokio::task::block_in_place(|| self.child.wait()).expect("it ends");
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().expect("it is piped");
        stderr.read_to_string(&mut log).expect("it is text");
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// Forms the cluster with the program's own command.
    fn init(&self) -> Output {
        let init = sbxorch()
            .args([
                "cluster",
                "init",
                "--insecure",
                "--initial-cluster",
                &self.members,
            ])
            .output();
        init.expect("the program is there")
    }

    async fn formed(number: u8) -> Self {
        Self::formed_with(number, &[]).await
    }

    async fn formed_with(number: u8, variables: &[(&str, &str)]) -> Self {
        let process = Self::start(number, variables);
        let listening = async {
            let request = wire::ClusterRequest { stale: true };
            while process.control().cluster(request).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("the start of the program", listening).await;
        let output = process.init();
        assert!(output.status.success(), "{output:?}");
        let leading = async {
            let request = wire::ClusterRequest { stale: false };
            while process.control().cluster(request).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("an election", leading).await;
        process
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(sent.expect("there is a kill").success());
    }

    async fn join(&self) -> Agent {
        let joined = async {
            loop {
                match Agent::greet(AgentClient::new(self.channel()), "n", Vec::new()).await {
                    Ok(agent) => return agent,
                    Err(status) => eprintln!("not welcome yet: {status}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("a welcome", joined).await
    }

    async fn node_version(&self) -> u64 {
        match get(&mut self.control(), Kind::Node, "n")
            .await
            .expect("the node is there")
        {
            Object::Node(node) => node.resource_version,
            other => panic!("not a node: {other:?}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn beat(agent: &Agent, times: u64) {
    for sequence in 1..=times {
        agent.heartbeat(sequence).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_is_formed_once_and_the_program_stops_well() {
    let process = Process::formed(1).await;
    let again = process.init();
    assert!(!again.status.success());
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("already"),
        "{again:?}"
    );
    process.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_joins_by_a_url_and_hands_over_when_it_is_terminated() {
    let first = Process::formed(3).await;
    let second = first.joining(4);
    let voters = async |process: &Process| -> Vec<u64> {
        let asked = process
            .control()
            .cluster(wire::ClusterRequest { stale: false })
            .await;
        let replicas = asked
            .map(|answer| answer.into_inner().replicas)
            .unwrap_or_default();
        replicas.iter().filter(|r| r.voter).map(|r| r.id).collect()
    };
    let joined = async {
        while voters(&second).await != [1, 2] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("a second voter", joined).await;
    // The leader hands over before it ends, and nothing goes wrong by it.
    let log = first.terminate();
    assert!(log.contains("another replica leads to=2"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    let log = second.terminate();
    assert!(!log.contains("ERROR"), "{log}");
}

/// As OpenTelemetry's own tools are told where it is, and whom to trust. What has not gone yet goes before the end.
#[tokio::test(flavor = "multi_thread")]
async fn spans_go_to_the_collector_of_the_environment_if_it_is_to_be_trusted() {
    let (trusted, other) = (authority(), authority());
    let host = "127.0.0.1".to_owned();
    let issued = trusted
        .issue(&Principal::Replica(9), &[host], clock::wall())
        .expect("a certificate");
    let mut collector = Collector::with_tls(&issued.chain, &issued.key);
    let endpoint = format!("https://127.0.0.1:{}", collector.port());
    let dir = tempfile::tempdir().expect("a folder");
    for (number, authority, is_trusted) in [(7, &trusted, true), (8, &other, false)] {
        let file = dir.path().join(number.to_string()).display().to_string();
        std::fs::write(&file, authority.certificate()).expect("it is written");
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("SSL_CERT_FILE", &file),
        ];
        let process = Process::formed_with(number, &variables).await;
        let id = format!("s{number}");
        let request = apply_request(sandbox(&id, ""));
        process.control().apply(request).await.expect("it is created");
        let log = process.terminate();
        assert_eq!(
            log.contains("the collector does not take spans"),
            !is_trusted,
            "{log}"
        );
    }
    let received = collector.wait_for(Duration::from_secs(10), |all| all.len() >= 2);
    assert!(received.iter().all(|one| one.instance == "1"), "{received:#?}");
    let of = |id: &str| {
        received
            .iter()
            .any(|one| one.attribute("sandboxd.sandbox.id") == id)
    };
    assert!(of("s7") && !of("s8"), "{received:#?}");
}

fn authority() -> Authority {
    Authority::create(clock::wall()).expect("an authority")
}

#[test]
fn unusable_settings_are_told_all_at_once() {
    let output = sbxorch()
        .args(["--advertise", "http://x"])
        .output()
        .expect("the program is there");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("--id") && told.contains("--insecure"), "{told}");
    // Without certificates it does not start, and says who makes them.
    let dir = tempfile::tempdir().expect("a folder");
    let output = sbxorch()
        .args([
            "--id",
            "1",
            "--listen",
            "127.0.0.1:0",
            "--advertise",
            "https://x",
            "--tls-dir",
        ])
        .arg(dir.path())
        .output()
        .expect("the program is there");
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("sbxctl cluster init"), "{told}");
    let printed = sbxorch()
        .args(["config", "print", "--node-grace", "7s"])
        .output()
        .expect("it is there");
    assert!(
        String::from_utf8_lossy(&printed.stdout).contains("node_grace = \"7s\""),
        "{printed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_of_the_leader_makes_no_node_lost() {
    let process = Process::formed(2).await;
    let agent = process.join().await;
    beat(&agent, 3).await;
    let before = process.node_version().await;
    process.signal("STOP");
    // Longer than the lease.
    tokio::time::sleep(Duration::from_secs(4)).await;
    process.signal("CONT");
    let agent = process.join().await;
    beat(&agent, 10).await;
    assert_eq!(
        process.node_version().await,
        before,
        "the node was Ready all the time"
    );
}

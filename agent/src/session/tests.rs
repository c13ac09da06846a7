//! A real session against replicas played by the tests, over real connections.

use super::*;
use crate::clock::BootTime;
use crate::lease::Tenure;
use crate::ledger::Version;
use prost::Message;
use proto::wire::agent_message::Message as Up;
use proto::wire::agent_server::{Agent, AgentServer};
use proto::wire::leader_message::Message as Down;
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A replica whose words are a test's.
#[derive(Clone)]
struct Replica {
    role: Arc<Mutex<Role>>,
    sessions: mpsc::UnboundedSender<Talk>,
}

#[derive(Clone)]
enum Role {
    Leader(wire::Welcome),
    Follower(String),
}

/// The leader's side of one session.
struct Talk {
    hello: wire::Hello,
    inbound: Streaming<wire::AgentMessage>,
    outbound: mpsc::Sender<Result<wire::LeaderMessage, Status>>,
}

type Outbound = ReceiverStream<Result<wire::LeaderMessage, Status>>;

#[tonic::async_trait]
impl Agent for Replica {
    type SessionStream = Outbound;
    type RelayStream = ReceiverStream<Result<wire::RelayDown, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Outbound>, Status> {
        let mut inbound = request.into_inner();
        let Some(Up::Hello(hello)) = inbound.message().await?.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let welcome = match self.role.lock().expect("not poisoned").clone() {
            Role::Leader(welcome) => welcome,
            Role::Follower(endpoint) => return Err(not_leader(endpoint)),
        };
        let (outbound, messages) = mpsc::channel(16);
        say(&outbound, Down::Welcome(welcome)).await;
        let talk = Talk {
            hello,
            inbound,
            outbound,
        };
        assert!(self.sessions.send(talk).is_ok(), "the test listens");
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn relay(
        &self,
        _: Request<Streaming<wire::RelayUp>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}

fn not_leader(endpoint: String) -> Status {
    let detail = wire::error_detail::Detail::NotLeader(wire::NotLeader {
        leader_id: 2,
        endpoint,
    });
    let detail = wire::ErrorDetail { detail: Some(detail) };
    Status::with_details(
        Code::FailedPrecondition,
        "not the leader",
        detail.encode_to_vec().into(),
    )
}

async fn say(outbound: &mpsc::Sender<Result<wire::LeaderMessage, Status>>, message: Down) {
    let message = wire::LeaderMessage {
        message: Some(message),
    };
    outbound.send(Ok(message)).await.expect("the agent listens");
}

fn welcome() -> wire::Welcome {
    wire::Welcome {
        leader_id: 1,
        heartbeat_ms: 20,
        lease_ms: 60_000,
        endpoints: Vec::new(),
        report_window: 0,
    }
}

impl Talk {
    async fn heard(&mut self) -> Option<Up> {
        let heard = tokio::time::timeout(PATIENCE, self.inbound.message()).await;
        heard.expect("in time").ok().flatten()?.message
    }

    async fn heartbeat(&mut self) -> wire::Heartbeat {
        loop {
            if let Up::Heartbeat(heartbeat) = self.heard().await.expect("the agent speaks") {
                return heartbeat;
            }
        }
    }

    async fn acknowledge(&mut self) -> wire::Heartbeat {
        let heartbeat = self.heartbeat().await;
        let ack = wire::HeartbeatAck {
            sequence: heartbeat.sequence,
            ..Default::default()
        };
        say(&self.outbound, Down::HeartbeatAck(ack)).await;
        heartbeat
    }

    async fn report(&mut self) -> Vec<(u64, wire::Phase)> {
        loop {
            match self.heard().await.expect("the agent speaks") {
                Up::Report(report) => return report.sandboxes.iter().map(|s| (s.uid, s.phase())).collect(),
                Up::Heartbeat(heartbeat) => {
                    let sequence = heartbeat.sequence;
                    say(
                        &self.outbound,
                        Down::HeartbeatAck(wire::HeartbeatAck {
                            sequence,
                            ..Default::default()
                        }),
                    )
                    .await;
                }
                Up::RelayRefused(refused) => panic!("no relay was asked for: {refused:?}"),
                Up::Hello(_) => panic!("said twice"),
            }
        }
    }

    /// Whether the agent has left, heartbeats aside.
    async fn left(mut self) -> bool {
        while self.heard().await.is_some() {}
        true
    }
}

/// A replica that serves, until it is dropped.
struct Served {
    url: String,
    role: Arc<Mutex<Role>>,
    sessions: mpsc::UnboundedReceiver<Talk>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    async fn start(role: Role) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (sender, sessions) = mpsc::unbounded_channel();
        let role = Arc::new(Mutex::new(role));
        let replica = Replica {
            role: role.clone(),
            sessions: sender,
        };
        let server = tonic::transport::Server::builder().add_service(AgentServer::new(replica));
        let server = server.serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.expect("served") });
        Self {
            url,
            role,
            sessions,
            server,
        }
    }

    async fn talk(&mut self) -> Talk {
        let talk = tokio::time::timeout(PATIENCE, self.sessions.recv()).await;
        talk.expect("the agent comes in time").expect("it is served")
    }
}

/// An agent whose session runs, until it is dropped.
struct Running {
    node: Arc<Node>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Running {
    fn start(servers: &[&Served]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Arc::new(Node {
            id: NodeId::new("n1").expect("an id"),
            dialer: Dialer::plain(),
            labels: Labels::new(),
            report: wire::NodeReport::default(),
            ledger: Arc::new(Ledger::open(folder.path(), "boot").expect("opened")),
            lease: Arc::new(Lease::open(folder.path(), "boot").expect("opened")),
            reports: Reports::default(),
            usage: Box::new(|| Used {
                cpu_milli: 7,
                memory_bytes: 9,
            }),
            replicas: watch::Sender::default(),
            sandboxes: Sandboxes {
                reports: Reports::default(),
                folder: folder.path().join("sandboxes"),
            },
        });
        let stop = CancellationToken::new();
        let servers = servers.iter().map(|s| s.url.clone()).collect();
        tokio::spawn(run(servers, node.clone(), stop.clone()));
        Self {
            node,
            stop,
            _folder: folder,
        }
    }

    async fn accepted(&self, version: Version) {
        let mut follow = self.node.ledger.follow();
        let accepted = follow.wait_for(|a| a.as_ref().is_some_and(|a| a.version == version));
        let accepted = tokio::time::timeout(PATIENCE, accepted).await;
        assert!(accepted.expect("in time").is_ok());
    }
}

fn report(uid: u64, phase: wire::Phase) -> wire::SandboxReport {
    wire::SandboxReport {
        sandbox_id: format!("s{uid}"),
        uid,
        phase: phase.into(),
        ..Default::default()
    }
}

fn desired(term: u64, index: u64, uids: &[u64]) -> Down {
    let sandbox = |uid: &u64| wire::DesiredSandbox {
        sandbox_id: format!("s{uid}"),
        uid: *uid,
        ..Default::default()
    };
    Down::Desired(wire::Desired {
        version: Some(wire::Version { term, index }),
        full: true,
        sandboxes: uids.iter().map(sandbox).collect(),
        removed_uids: Vec::new(),
    })
}

#[tokio::test]
async fn follower_sends_the_agent_to_the_leader() {
    let mut leader = Served::start(Role::Leader(welcome())).await;
    let follower = Served::start(Role::Follower(leader.url.clone())).await;
    let _agent = Running::start(&[&follower]);
    let mut talk = leader.talk().await;
    assert_eq!(talk.hello.node_id, "n1");
    let heartbeat = talk.acknowledge().await;
    assert_eq!((heartbeat.used_cpu_milli, heartbeat.used_memory_bytes), (7, 9));
}

#[tokio::test]
async fn heartbeat_that_is_asked_for_comes_at_once() {
    let seldom = wire::Welcome {
        heartbeat_ms: 600_000,
        ..welcome()
    };
    let mut leader = Served::start(Role::Leader(seldom)).await;
    let _agent = Running::start(&[&leader]);
    let mut talk = leader.talk().await;
    assert_eq!(talk.acknowledge().await.sequence, 1);
    for sequence in 2..5 {
        say(&talk.outbound, Down::AskHeartbeat(wire::AskHeartbeat {})).await;
        assert_eq!(talk.acknowledge().await.sequence, sequence);
    }
}

#[tokio::test]
async fn election_is_waited_for() {
    let mut one = Served::start(Role::Follower(String::new())).await;
    let two = Served::start(Role::Follower(String::new())).await;
    let _agent = Running::start(&[&one, &two]);
    *one.role.lock().expect("not poisoned") = Role::Leader(welcome());
    one.talk().await;
}

#[tokio::test]
async fn desired_state_is_accepted_and_told_in_heartbeats_and_in_the_next_hello() {
    let mut leader = Served::start(Role::Leader(welcome())).await;
    let agent = Running::start(&[&leader]);
    let mut talk = leader.talk().await;
    assert_eq!(talk.hello.accepted, None);
    say(&talk.outbound, desired(1, 5, &[3])).await;
    agent.accepted(Version { term: 1, index: 5 }).await;
    let version = Some(wire::Version { term: 1, index: 5 });
    while talk.acknowledge().await.accepted != version {}
    drop(talk);
    assert_eq!(leader.talk().await.hello.accepted, version);
}

#[tokio::test]
async fn older_desired_state_is_refused_and_its_sender_left() {
    let mut old = Served::start(Role::Leader(welcome())).await;
    let agent = Running::start(&[&old]);
    let talk = old.talk().await;
    say(&talk.outbound, desired(2, 5, &[3])).await;
    agent.accepted(Version { term: 2, index: 5 }).await;
    say(&talk.outbound, desired(1, 99, &[4])).await;
    assert!(talk.left().await);
    assert_eq!(agent.node.ledger.version(), Some(Version { term: 2, index: 5 }));
}

#[tokio::test]
async fn reports_follow_the_inventory_and_are_told_again_to_the_next_leader() {
    let mut one = Served::start(Role::Leader(welcome())).await;
    let mut two = Served::start(Role::Leader(welcome())).await;
    let agent = Running::start(&[&one, &two]);
    let mut talk = one.talk().await;
    agent.node.reports.set(report(1, wire::Phase::Scheduled));
    assert_eq!(talk.report().await, [(1, wire::Phase::Scheduled)]);
    agent.node.reports.set(report(1, wire::Phase::Running));
    assert_eq!(talk.report().await, [(1, wire::Phase::Running)]);
    // The leader dies before it has written that down.
    drop(talk);
    let talk = two.talk().await;
    let told: Vec<_> = talk.hello.inventory.iter().map(|s| (s.uid, s.phase())).collect();
    assert_eq!(told, [(1, wire::Phase::Running)]);
}

#[tokio::test]
async fn reports_wait_for_a_leader_that_takes_them_in_slowly_and_are_then_told_once() {
    let slow = wire::Welcome {
        report_window: 1,
        ..welcome()
    };
    let mut leader = Served::start(Role::Leader(slow)).await;
    let agent = Running::start(&[&leader]);
    let mut talk = leader.talk().await;
    agent.node.reports.set(report(1, wire::Phase::Scheduled));
    assert_eq!(talk.report().await, [(1, wire::Phase::Scheduled)]);
    agent.node.reports.set(report(2, wire::Phase::Scheduled));
    // It lives, and keeps its reports to itself.
    for _ in 0..3 {
        talk.acknowledge().await;
    }
    agent.node.reports.set(report(2, wire::Phase::Running));
    agent.node.reports.set(report(1, wire::Phase::Running));
    let taken_in = Down::ReportAck(wire::ReportAck { reports: 1 });
    say(&talk.outbound, taken_in).await;
    let told = talk.report().await;
    assert_eq!(told, [(2, wire::Phase::Running), (1, wire::Phase::Running)]);
}

#[tokio::test]
async fn leader_that_answers_no_heartbeat_is_left_for_another() {
    let mut frozen = Served::start(Role::Leader(welcome())).await;
    let mut other = Served::start(Role::Leader(welcome())).await;
    let _agent = Running::start(&[&frozen, &other]);
    // Held, so that the connection stays and nothing is said on it.
    let _silent = frozen.talk().await;
    other.talk().await;
}

#[tokio::test]
async fn lease_grows_by_acknowledged_heartbeats_only_and_from_when_they_were_sent() {
    const LEASE: Duration = Duration::from_secs(60);
    let mut leader = Served::start(Role::Leader(welcome())).await;
    let agent = Running::start(&[&leader]);
    let mut talk = leader.talk().await;
    let until = |agent: &Running| match agent.node.lease.tenure() {
        Tenure::Until(until) => until,
        Tenure::Never => panic!("a welcome gives a lease"),
    };
    agent.node.lease.held().await;
    let welcomed = until(&agent);
    let _unanswered = talk.heartbeat().await;
    assert_eq!(until(&agent), welcomed);
    let before = BootTime::now();
    while until(&agent) == welcomed {
        talk.acknowledge().await;
    }
    let margin = crate::lease::margin(LEASE);
    assert!(until(&agent) <= BootTime::now().plus(LEASE - margin));
    assert!(until(&agent) > welcomed && before.plus(LEASE) > until(&agent));
}

#[tokio::test]
async fn lease_is_over_when_no_leader_is_reached_for_so_long() {
    let short = wire::Welcome {
        lease_ms: 120,
        ..welcome()
    };
    let mut leader = Served::start(Role::Leader(short)).await;
    let agent = Running::start(&[&leader]);
    let mut talk = leader.talk().await;
    for _ in 0..3 {
        talk.acknowledge().await;
    }
    *leader.role.lock().expect("not poisoned") = Role::Follower(String::new());
    drop(talk);
    tokio::time::timeout(PATIENCE, agent.node.lease.over())
        .await
        .expect("in time");
}

/// It knew one replica, which is gone: those that joined while it was connected are tried.
#[tokio::test]
async fn replica_that_joins_during_a_session_is_found_when_the_leader_is_lost() {
    let mut first = Served::start(Role::Leader(welcome())).await;
    let mut second = Served::start(Role::Leader(welcome())).await;
    let running = Running::start(&[&first]);
    let mut talk = first.talk().await;
    talk.acknowledge().await;
    let grown = wire::Welcome {
        endpoints: vec![first.url.clone(), second.url.clone()],
        ..welcome()
    };
    say(&talk.outbound, Down::Welcome(grown)).await;
    let mut replicas = running.node.replicas.subscribe();
    let told = replicas.wait_for(|known| known.contains(&second.url));
    let told = tokio::time::timeout(PATIENCE, told).await;
    assert!(told.expect("in time").is_ok());
    drop(first);
    drop(talk);
    second.talk().await.acknowledge().await;
}

//! The control plane's side of a session, played by a test.

use proto::spec::Manifest;
use proto::wire::agent_message::Message as Up;
use proto::wire::agent_server::{Agent, AgentServer};
use proto::wire::leader_message::Message as Down;
use proto::wire::open_relay::What;
use proto::wire::{self, Phase, SandboxReport};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Leader {
    pub(crate) url: String,
    refuses: Arc<AtomicBool>,
    index: Arc<AtomicU64>,
    sessions: mpsc::UnboundedReceiver<Session>,
}

/// One agent's session.
pub(crate) struct Session {
    pub(crate) hello: wire::Hello,
    reports: mpsc::UnboundedReceiver<SandboxReport>,
    outbound: Outbound,
    relays: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Streaming<wire::RelayUp>>>>,
    index: Arc<AtomicU64>,
    /// The last word on each sandbox.
    known: BTreeMap<u64, SandboxReport>,
}

type Outbound = mpsc::Sender<Result<wire::LeaderMessage, Status>>;

struct Service {
    lease: Duration,
    refuses: Arc<AtomicBool>,
    index: Arc<AtomicU64>,
    sessions: mpsc::UnboundedSender<Session>,
    relay: mpsc::UnboundedSender<Streaming<wire::RelayUp>>,
    relays: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Streaming<wire::RelayUp>>>>,
}

impl Leader {
    pub(crate) async fn start(lease: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (sender, sessions) = mpsc::unbounded_channel();
        let (relay, relays) = mpsc::unbounded_channel();
        let refuses = Arc::new(AtomicBool::new(false));
        let index = Arc::new(AtomicU64::new(1));
        let service = Service {
            lease,
            refuses: refuses.clone(),
            index: index.clone(),
            sessions: sender,
            relay,
            relays: Arc::new(tokio::sync::Mutex::new(relays)),
        };
        let server = tonic::transport::Server::builder().add_service(AgentServer::new(service));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self {
            url,
            refuses,
            index,
            sessions,
        }
    }

    /// The next session that an agent opens.
    pub(crate) async fn session(&mut self) -> Session {
        let session = tokio::time::timeout(PATIENCE, self.sessions.recv()).await;
        let session = session.expect("an agent comes in time").expect("it is served");
        assert!(Arc::ptr_eq(&session.index, &self.index));
        session
    }

    pub(crate) fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Agent for Service {
    type SessionStream = ReceiverStream<Result<wire::LeaderMessage, Status>>;
    type RelayStream = ReceiverStream<Result<wire::RelayDown, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Status::unavailable("refused by the test"));
        }
        let mut inbound = request.into_inner();
        let Some(Up::Hello(hello)) = inbound.message().await?.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (outbound, messages) = mpsc::channel(64);
        // As often as the lease needs it, and otherwise as the contract has it.
        let heartbeat = (self.lease / 20).min(Duration::from_secs(1));
        let welcome = wire::Welcome {
            leader_id: 1,
            heartbeat_ms: u64::try_from(heartbeat.as_millis()).expect("short"),
            lease_ms: u64::try_from(self.lease.as_millis()).expect("short"),
            endpoints: Vec::new(),
            report_window: 0,
        };
        say(&outbound, Down::Welcome(welcome)).await;
        let (told, reports) = mpsc::unbounded_channel();
        tokio::spawn(hear(inbound, outbound.clone(), told));
        let session = Session {
            known: hello.inventory.iter().map(|r| (r.uid, r.clone())).collect(),
            hello,
            reports,
            outbound,
            relays: self.relays.clone(),
            index: self.index.clone(),
        };
        self.sessions.send(session).ok();
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn relay(
        &self,
        request: Request<Streaming<wire::RelayUp>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        self.relay.send(request.into_inner()).ok();
        let (down, messages) = mpsc::channel(1);
        // Held as long as the relay, which the agent ends.
        tokio::spawn(async move { down.closed().await });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Session {
    async fn say(&self, message: Down) {
        say(&self.outbound, message).await;
    }

    fn version(&self) -> Option<wire::Version> {
        let index = self.index.fetch_add(1, Ordering::SeqCst);
        Some(wire::Version { term: 1, index })
    }

    /// These, and no others, shall be on the node.
    pub(crate) async fn desire(&self, sandboxes: &[wire::DesiredSandbox]) {
        self.say(Down::Desired(wire::Desired {
            version: self.version(),
            full: true,
            sandboxes: sandboxes.to_vec(),
            removed_uids: Vec::new(),
        }))
        .await;
    }

    /// This one as well.
    pub(crate) async fn add(&self, sandbox: wire::DesiredSandbox) {
        self.change(vec![sandbox], Vec::new()).await;
    }

    pub(crate) async fn remove(&self, uid: u64) {
        self.change(Vec::new(), vec![uid]).await;
    }

    async fn change(&self, sandboxes: Vec<wire::DesiredSandbox>, removed_uids: Vec<u64>) {
        self.say(Down::Desired(wire::Desired {
            version: self.version(),
            full: false,
            sandboxes,
            removed_uids,
        }))
        .await;
    }

    /// The next word on any sandbox.
    pub(crate) async fn next_report(&mut self) -> SandboxReport {
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        let report = report.expect("a report comes in time").expect("the agent stays");
        self.known.insert(report.uid, report.clone());
        report
    }

    /// The last word on a sandbox.
    pub(crate) fn known(&self, uid: u64) -> SandboxReport {
        self.known.get(&uid).cloned().unwrap_or_default()
    }

    /// Waits for a word on the sandbox that says `phase`.
    pub(crate) async fn reported(&mut self, uid: u64, phase: Phase) -> SandboxReport {
        let report = self.reported_unless_it_leaves(uid, phase).await;
        report.expect("the agent stays")
    }

    /// The same; `None` where the agent leaves before it says so.
    pub(crate) async fn reported_unless_it_leaves(
        &mut self,
        uid: u64,
        phase: Phase,
    ) -> Option<SandboxReport> {
        let heard = tokio::time::timeout(PATIENCE, async {
            while self.known(uid).phase() != phase {
                let report = self.reports.recv().await?;
                self.known.insert(report.uid, report);
            }
            Some(self.known(uid))
        });
        match heard.await {
            Ok(heard) => heard,
            Err(_) => panic!("{phase:?} was never said of {uid}: {:?}", self.known),
        }
    }

    /// The first `count` lines of a sandbox's logs, or fewer where they end, as `container: line`.
    pub(crate) async fn logs(&self, sandbox: &str, follow: bool, count: usize) -> Vec<String> {
        let request = wire::LogsRequest {
            sandbox_id: sandbox.to_owned(),
            follow,
            ..Default::default()
        };
        self.say(Down::OpenRelay(wire::OpenRelay {
            relay_id: "r".to_owned(),
            what: Some(What::Logs(request)),
        }))
        .await;
        let relays = self.relays.clone();
        let read = async move {
            let mut relay = relays.lock().await.recv().await.expect("a relay");
            let mut lines = Vec::new();
            while lines.len() < count
                && let Some(up) = relay.message().await.expect("a message")
            {
                match up.message {
                    Some(wire::relay_up::Message::RelayId(id)) => assert_eq!(id, "r"),
                    Some(wire::relay_up::Message::Logs(chunk)) => {
                        lines.extend(chunk.lines.iter().map(text));
                    }
                    Some(wire::relay_up::Message::Error(error)) => panic!("{error}"),
                    Some(wire::relay_up::Message::Output(_)) | None => {}
                }
            }
            lines
        };
        tokio::time::timeout(PATIENCE, read).await.expect("in time")
    }
}

async fn say(outbound: &Outbound, message: Down) {
    let message = wire::LeaderMessage {
        message: Some(message),
    };
    // One who has left hears nothing.
    outbound.send(Ok(message)).await.ok();
}

/// Answers heartbeats, and hands reports on, for as long as the agent speaks and the test holds the session.
async fn hear(
    mut inbound: Streaming<wire::AgentMessage>,
    outbound: Outbound,
    told: mpsc::UnboundedSender<SandboxReport>,
) {
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            () = told.closed() => return,
        };
        match message.ok().flatten().and_then(|m| m.message) {
            Some(Up::Heartbeat(heartbeat)) => {
                let sequence = heartbeat.sequence;
                say(
                    &outbound,
                    Down::HeartbeatAck(wire::HeartbeatAck {
                        sequence,
                        ..Default::default()
                    }),
                )
                .await;
            }
            Some(Up::Report(report)) => {
                for report in report.sandboxes {
                    told.send(report).ok();
                }
            }
            Some(Up::RelayRefused(refused)) => panic!("{refused:?}"),
            Some(Up::Hello(_)) | None => return,
        }
    }
}

fn text(line: &wire::LogLine) -> String {
    format!("{}: {}", line.container, String::from_utf8_lossy(&line.line))
}

/// A sandbox to wish for; `spec` is the YAML of a manifest's `spec`.
pub(crate) fn desired(uid: u64, id: &str, spec: &str) -> wire::DesiredSandbox {
    let indented: String = spec.trim().lines().map(|line| format!("  {line}\n")).collect();
    let manifest = format!("apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: {id}\nspec:\n{indented}");
    let manifests = proto::manifest::parse(&manifest).expect("the manifest is good");
    let Some(Manifest::Sandbox { spec, .. }) = manifests.first() else {
        panic!("no sandbox")
    };
    wire::DesiredSandbox {
        sandbox_id: id.to_owned(),
        uid,
        spec: Some(spec.into()),
        ..Default::default()
    }
}

/// As one that the cluster sees as ended.
pub(crate) fn ended(sandbox: wire::DesiredSandbox) -> wire::DesiredSandbox {
    wire::DesiredSandbox {
        ended: true,
        ..sandbox
    }
}

//! Replicas in this process, with real stores and real connections, each cluster on loopback addresses of its own.

use crate::identity::{Bearer, Identity};
use control_plane::admission::Limits;
use control_plane::config::{Config, Peer, Timings, TlsFiles};
use control_plane::schedule::Policy;
use control_plane::serve::{self, ServeError};
use control_plane::state::Level;
use identity::credentials::Credentials;
use identity::dial::Dialer;
use identity::folder;
use identity::principal::Principal;
use identity::token::Secret;
use proto::wire;
use proto::wire::agent_client::AgentClient;
use proto::wire::control_client::ControlClient;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

/// Everything here takes well below a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Fails where something that must happen does not.
#[track_caller]
pub(crate) fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let what = what.to_owned();
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("{what} did not happen within {PATIENCE:?} ({place})"),
        }
    }
}

pub(crate) struct Cluster {
    replicas: Vec<Running>,
    identity: Option<Identity>,
    dir: tempfile::TempDir,
}

/// A client that shows a token, if it has one.
pub(crate) type Service = InterceptedService<Channel, Bearer>;

struct Running {
    endpoint: String,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), ServeError>>>,
}

/// Clusters that share the first three bytes of their addresses; the last ones are left to programs of their own.
const CLUSTERS_PER_NET: u16 = 60;

/// 127.a.b.c: a and b from the process and the cluster, c from the cluster and the replica.
fn address(cluster: u16, id: u64) -> String {
    let process = u16::try_from(std::process::id() % 15_000).expect("it is small");
    let [a, b] = (process * 4 + cluster / CLUSTERS_PER_NET).to_be_bytes();
    let c = u64::from(cluster % CLUSTERS_PER_NET) * 4 + id;
    format!("127.{}.{b}.{c}", 1 + a)
}

impl Cluster {
    /// Long timings: nothing happens but what the test does.
    pub(crate) async fn start(size: u64) -> Self {
        Self::with(size, Timings::default()).await
    }

    pub(crate) async fn with(size: u64, timings: Timings) -> Self {
        Self::make(size, timings, Limits::default(), false).await
    }

    /// With TLS, certificates and a first token.
    pub(crate) async fn secure(size: u64) -> Self {
        Self::make(size, Timings::default(), Limits::default(), true).await
    }

    /// The same, that takes only so much.
    pub(crate) async fn limited(size: u64, limits: Limits) -> Self {
        Self::make(size, Timings::default(), limits, true).await
    }

    async fn make(size: u64, timings: Timings, limits: Limits, secure: bool) -> Self {
        static CLUSTERS: AtomicU16 = AtomicU16::new(0);
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::tempdir().expect("a folder for the test");
        let scheme = if secure { "https" } else { "http" };
        let peers: Vec<Peer> = (1..=size)
            .map(|id| Peer {
                id,
                peer_endpoint: format!("{scheme}://{}:7071", address(number, id)),
                endpoint: format!("{scheme}://{}:7070", address(number, id)),
            })
            .collect();
        let identity = secure.then(|| Identity::make(dir.path()));
        if let Some(identity) = &identity {
            for peer in &peers {
                identity.equip(peer.id, &address(number, peer.id));
            }
        }
        let mut replicas = Vec::new();
        for peer in &peers {
            let host = address(number, peer.id);
            let config = Config {
                id: peer.id,
                listen: format!("{host}:7070").parse().expect("an address"),
                peer_listen: format!("{host}:7071").parse().expect("an address"),
                advertise: peer.endpoint.clone(),
                advertise_peer: peer.peer_endpoint.clone(),
                data_dir: dir.path().join(peer.id.to_string()),
                initial_cluster: peers.clone(),
                join: None,
                min_free_disk: proto::units::Bytes(1 << 20),
                tls: identity.as_ref().map(|identity| TlsFiles {
                    dir: identity.folder(&Principal::Replica(peer.id)),
                    authority_key: identity
                        .folder(&Principal::Replica(peer.id))
                        .join(folder::AUTHORITY_KEY),
                }),
                timings,
                scheduling: Policy::Spread,
                limits,
                otlp_endpoint: None,
                level: Level::NEWEST,
            };
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            let serving = within("the start of a replica", serve::start(config))
                .await
                .expect("it starts");
            let task = tokio::spawn(serving.run(async move { stopped.cancelled().await }));
            replicas.push(Running {
                endpoint: peer.endpoint.clone(),
                stop,
                task: Some(task),
            });
        }
        let cluster = Self {
            replicas,
            identity,
            dir,
        };
        for replica in 0..cluster.replicas.len() {
            within("an answer of every replica", cluster.ready(replica)).await;
        }
        cluster
    }

    /// Where a replica of this number would be: for others, and for users and agents.
    pub(crate) fn place(&self, id: u64) -> (String, String) {
        // Beside the first one, which has the number 1.
        let first = self.replicas[0].endpoint.trim_end_matches(":7070");
        let (net, host) = first.rsplit_once('.').expect("an address");
        let host: u64 = host.parse().expect("a number");
        let host = format!("{net}.{}", host + id - 1);
        (format!("{host}:7071"), format!("{host}:7070"))
    }

    /// One more replica of this number, on what is in its folder. Plain text.
    pub(crate) async fn start_on(&mut self, id: u64, data_dir: &Path) -> usize {
        let (peer, endpoint) = self.place(id);
        let address = |url: &str| url.trim_start_matches("http://").parse().expect("an address");
        let config = Config {
            id,
            listen: address(&endpoint),
            peer_listen: address(&peer),
            advertise: endpoint.clone(),
            advertise_peer: peer,
            data_dir: data_dir.to_owned(),
            initial_cluster: Vec::new(),
            join: None,
            min_free_disk: proto::units::Bytes(1 << 20),
            tls: None,
            timings: Timings::default(),
            scheduling: Policy::Spread,
            limits: Limits::default(),
            otlp_endpoint: None,
            level: Level::NEWEST,
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = within("the start of a replica", serve::start(config))
            .await
            .expect("it starts");
        let task = tokio::spawn(serving.run(async move { stopped.cancelled().await }));
        self.replicas.push(Running {
            endpoint,
            stop,
            task: Some(task),
        });
        let replica = self.replicas.len() - 1;
        within("its answer", self.ready(replica)).await;
        replica
    }

    pub(crate) fn endpoint(&self, replica: usize) -> &str {
        &self.replicas[replica].endpoint
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Of a cluster that was made with [`Cluster::secure`].
    pub(crate) fn identity(&self) -> &Identity {
        self.identity.as_ref().expect("the cluster has one")
    }

    /// As a person dials.
    pub(crate) fn dialer(&self) -> Dialer {
        match &self.identity {
            Some(identity) => Dialer::trusting(identity.authority.certificate()).expect("it is readable"),
            None => Dialer::plain(),
        }
    }

    fn channel(&self, replica: usize, dialer: &Dialer) -> Channel {
        let endpoint = dialer.endpoint(self.endpoint(replica)).expect("a URL");
        dialer.lazy(&endpoint)
    }

    /// A channel of somebody with this token.
    pub(crate) fn service(&self, replica: usize, token: Option<&Secret>) -> Service {
        InterceptedService::new(self.channel(replica, &self.dialer()), Bearer(token.cloned()))
    }

    /// As the administrator.
    pub(crate) fn control(&self, replica: usize) -> ControlClient<Service> {
        let token = self.identity.as_ref().map(|identity| &identity.token);
        ControlClient::new(self.service(replica, token))
    }

    /// As an agent of no certificate.
    pub(crate) fn agent(&self, replica: usize) -> AgentClient<Channel> {
        AgentClient::new(self.channel(replica, &self.dialer()))
    }

    /// As whoever has these credentials.
    pub(crate) fn agent_as(&self, replica: usize, credentials: &Credentials) -> AgentClient<Channel> {
        AgentClient::new(self.channel(replica, &Dialer::following(credentials.clone())))
    }

    /// Returns once a replica knows the leader, and that leads.
    async fn ready(&self, replica: usize) {
        let request = wire::ClusterRequest { stale: false };
        while self.control(replica).cluster(request).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Which of the running replicas leads, as it says itself.
    pub(crate) async fn leader(&self) -> usize {
        let elected = async {
            loop {
                for (n, replica) in self.replicas.iter().enumerate() {
                    if replica.task.is_none() {
                        continue;
                    }
                    let asked = self
                        .control(n)
                        .cluster(wire::ClusterRequest { stale: true })
                        .await;
                    let word = asked.map(tonic::Response::into_inner).unwrap_or_default();
                    if word.leader_id == word.answered_by && word.leader_id != 0 {
                        return n;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("an election", elected).await
    }

    /// A running replica that does not lead.
    pub(crate) async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let running = |n: &usize| self.replicas[*n].task.is_some();
        (0..self.replicas.len())
            .filter(running)
            .find(|n| *n != leader)
            .expect("there are several")
    }

    /// Stops a replica in good order.
    pub(crate) async fn stop(&mut self, replica: usize) {
        let replica = &mut self.replicas[replica];
        replica.stop.cancel();
        if let Some(task) = replica.task.take() {
            within("the stop of a replica", task)
                .await
                .expect("no panic")
                .expect("it stops well");
        }
    }
}

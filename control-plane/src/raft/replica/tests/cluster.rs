//! Some replicas of one cluster in this process, on ports that were bound before they were told.

use super::super::{Raft, Replica, StartError};
use crate::config::{Config, Peer, Timings};
use crate::raft::{Leadership, ProposeError, StoreError};
use crate::security::Security;
use crate::state::Level;
use proto::wire;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Far above what a loaded machine needs; a test that waits for it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A replica and the threads it runs on, to be ended as if its process were.
struct Running {
    replica: Replica,
    runtime: Runtime,
}

impl Running {
    async fn start(config: Config, listener: TcpListener) -> Result<Self, StartError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = listener.into_std().unwrap();
        let starting = runtime.spawn(async move {
            Replica::start_on(
                &config,
                &Security::Insecure,
                TcpListener::from_std(listener).unwrap(),
            )
            .await
        });
        match starting.await.unwrap() {
            Ok(replica) => Ok(Self { replica, runtime }),
            Err(e) => {
                runtime.shutdown_background();
                Err(e)
            }
        }
    }

    /// Ends all its tasks wherever they are.
    fn end(self) -> JoinHandle<()> {
        std::thread::spawn(move || self.runtime.shutdown_timeout(PATIENCE))
    }
}

impl Drop for Cluster {
    /// Waits for the ends: RocksDB must not be open when the process exits.
    fn drop(&mut self) {
        let running = self.replicas.iter_mut().filter_map(Option::take);
        self.ends.extend(running.map(Running::end));
        for end in self.ends.drain(..) {
            let _ = end.join();
        }
    }
}

pub(super) struct Cluster {
    pub(super) configs: Vec<Config>,
    replicas: Vec<Option<Running>>,
    /// Of those that were killed.
    ends: Vec<JoinHandle<()>>,
    _dir: TempDir,
}

impl Cluster {
    /// Members that know each other's addresses, none started; and their listeners.
    pub(super) async fn planned(size: u64) -> (Self, Vec<TcpListener>) {
        let dir = tempfile::tempdir().unwrap();
        let mut listeners = Vec::new();
        let mut peers = Vec::new();
        for id in 1..=size {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            peers.push(Peer {
                id,
                peer_endpoint: format!("http://{}", listener.local_addr().unwrap()),
                // Nobody is served there: it is only told.
                endpoint: format!("http://127.0.0.1:{id}"),
            });
            listeners.push(listener);
        }
        let config = |(peer, listener): (&Peer, &TcpListener)| Config {
            id: peer.id,
            listen: peer.endpoint.trim_start_matches("http://").parse().unwrap(),
            peer_listen: listener.local_addr().unwrap(),
            advertise: peer.endpoint.clone(),
            advertise_peer: peer.peer_endpoint.clone(),
            data_dir: dir.path().join(peer.id.to_string()),
            initial_cluster: peers.clone(),
            join: None,
            min_free_disk: proto::units::Bytes(1 << 20),
            tls: None,
            timings: Timings::default(),
            scheduling: crate::schedule::Policy::Spread,
            limits: crate::admission::Limits::default(),
            otlp_endpoint: None,
            level: crate::state::Level::NEWEST,
        };
        let cluster = Self {
            configs: peers.iter().zip(&listeners).map(config).collect(),
            replicas: peers.iter().map(|_| None).collect(),
            ends: Vec::new(),
            _dir: dir,
        };
        (cluster, listeners)
    }

    /// All members started, in parallel as on machines of their own.
    pub(super) async fn of(size: u64) -> Self {
        Self::at(size, Level::NEWEST).await
    }

    /// Of a version that speaks this level at most.
    pub(super) async fn at(size: u64, level: Level) -> Self {
        let (mut cluster, listeners) = Self::planned(size).await;
        cluster.configs.iter_mut().for_each(|config| config.level = level);
        let starting = cluster.configs.clone().into_iter().zip(listeners);
        let starting = starting.map(|(config, listener)| Running::start(config, listener));
        for (slot, started) in cluster
            .replicas
            .iter_mut()
            .zip(futures::future::join_all(starting).await)
        {
            *slot = Some(started.unwrap());
        }
        cluster
    }

    /// A running replica that belongs to no cluster yet, with the next number of this test.
    pub(super) async fn newcomer(&mut self) -> wire::Member {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.newcomer_at(listener, None).await
    }

    /// The same, reached by others at `url` where there is one.
    pub(super) async fn newcomer_at(&mut self, listener: TcpListener, url: Option<String>) -> wire::Member {
        let id = self.configs.len() as u64 + 1;
        let own = format!("http://{}", listener.local_addr().unwrap());
        let endpoint = format!("http://127.0.0.1:{id}");
        let config = Config {
            id,
            listen: endpoint.trim_start_matches("http://").parse().unwrap(),
            peer_listen: listener.local_addr().unwrap(),
            advertise: endpoint.clone(),
            advertise_peer: url.unwrap_or(own),
            data_dir: self._dir.path().join(id.to_string()),
            initial_cluster: Vec::new(),
            ..self.configs[0].clone()
        };
        self.configs.push(config.clone());
        self.replicas.push(None);
        self.start(config.clone(), listener).await;
        wire::Member {
            id,
            peer_endpoint: config.advertise_peer,
            endpoint,
        }
    }

    pub(super) async fn start(&mut self, config: Config, listener: TcpListener) {
        let slot = slot(config.id);
        self.replicas[slot] = Some(Running::start(config, listener).await.unwrap());
    }

    pub(super) fn replica(&self, id: u64) -> Replica {
        self.replicas[slot(id)].as_ref().unwrap().replica.clone()
    }

    pub(super) fn raft(&self, id: u64) -> Raft {
        self.replica(id).0.raft.clone()
    }

    /// The replicas that run.
    pub(super) fn running(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().flatten().map(|running| &running.replica)
    }

    /// As when the process is killed: without a goodbye, its connections closed by the kernel.
    pub(super) fn kill(&mut self, id: u64) {
        let running = self.replicas[slot(id)].take().unwrap();
        self.ends.push(running.end());
    }

    /// Kills it, and returns when nothing of it runs any more.
    pub(super) async fn end(&mut self, id: u64) {
        let running = self.replicas[slot(id)].take().unwrap();
        let end = running.end();
        let joined = tokio::task::spawn_blocking(move || end.join()).await;
        assert!(joined.unwrap().is_ok());
    }

    /// Whether it starts at all, from its disk.
    pub(super) async fn try_start(&mut self, id: u64) -> Result<(), StartError> {
        let config = self.configs[slot(id)].clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let running = Running::start(config, listener).await?;
        self.replicas[slot(id)] = Some(running);
        Ok(())
    }

    /// Again, from its disk and at its address.
    pub(super) async fn restart(&mut self, id: u64) {
        let config = self.configs[slot(id)].clone();
        let starting = async {
            loop {
                let started = match TcpListener::bind(config.peer_listen).await {
                    Ok(listener) => Running::start(config.clone(), listener).await,
                    // Within one process the last task of the one before may still hold the port, or a lock.
                    Err(_) => continue,
                };
                match started {
                    Err(StartError::Store(StoreError::Open { .. })) => tokio::task::yield_now().await,
                    started => return started.unwrap(),
                }
            }
        };
        let running = tokio::time::timeout(PATIENCE, starting)
            .await
            .expect("it starts again");
        self.replicas[slot(id)] = Some(running);
    }

    /// The replica that leads and may act on it; waits for it.
    pub(super) async fn leader(&self) -> Replica {
        let leads = self.running().map(|replica| {
            Box::pin(async move {
                until(replica, "it leads", |now| now.is_self).await;
                replica.clone()
            })
        });
        futures::future::select_all(leads).await.0
    }

    pub(super) async fn follower(&self) -> Replica {
        let leader = self.leader().await;
        let other = self
            .running()
            .find(|replica| replica.id() != leader.id())
            .unwrap();
        until(other, "it knows the leader", |now| now.leader.is_some()).await;
        other.clone()
    }

    /// As a client does it: follows the leader, asks again with the same command, to the end.
    pub(super) async fn write(&self, command: wire::Command) -> wire::Accepted {
        let writing = async {
            loop {
                for replica in self.running() {
                    match replica.propose(command.clone()).await {
                        Ok(accepted) => return accepted,
                        Err(ProposeError::NotLeader { .. } | ProposeError::Unknown { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, writing)
            .await
            .expect("the write is accepted in the end")
    }
}

/// Waits until a replica says so of who leads.
pub(super) async fn until(replica: &Replica, what: &str, is_so: impl FnMut(&Leadership) -> bool) {
    let mut leadership = replica.leadership();
    let waiting = leadership.wait_for(is_so);
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(so) => drop(so.unwrap()),
        Err(_) => panic!("replica {}: never {what}", replica.id()),
    }
}

/// A command that makes external number `n`, each time with the request id that belongs to it.
pub(super) fn external(n: u64) -> wire::Command {
    let manifest = wire::Manifest {
        id: external_id(n),
        labels: Default::default(),
        spec: Some(wire::manifest::Spec::External(wire::ExternalSpec {
            node_id: format!("node-{n}"),
            external: format!("{n}.example.test"),
        })),
    };
    wire::Command {
        request_id: format!("request-{n}"),
        op: Some(wire::command::Op::Apply(wire::ApplyObject {
            manifest: Some(manifest),
            ..Default::default()
        })),
    }
}

pub(super) fn external_id(n: u64) -> String {
    format!("external-{n}")
}

/// Whether the replica shows external number `n`, at present.
pub(super) fn has(replica: &Replica, n: u64) -> bool {
    replica
        .replicated()
        .read()
        .external(&external_id(n).parse().unwrap())
        .is_some()
}

fn slot(id: u64) -> usize {
    usize::try_from(id - 1).unwrap()
}

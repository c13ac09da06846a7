//! Agents that are real but for what they would run: each has a certificate and a connection of its own, finds the leader,
//! keeps its lease and writes its ledger as `sbxlet` does, by `sbxlet`'s own code. Of what it shall run it says at once that
//! it runs.

use crate::error::BenchError;
use crate::local::Local;
use agent::clock::BootTime;
use agent::lease::{Lease, Tenure, margin};
use agent::ledger::{Accepted, Ledger};
use agent::relay::Sandboxes;
use agent::report::Reports;
use agent::session::{self, Used};
use futures::StreamExt;
use identity::authority::Authority;
use identity::credentials::Credentials;
use identity::dial::Dialer;
use identity::folder;
use identity::principal::Principal;
use proto::id::{NodeId, Uid};
use proto::spec::Labels;
use proto::wire;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Agents that are let in at the same time when a fleet begins: how it begins is not what is measured.
const BEGIN_AT_ONCE: usize = 32;
/// For one of them, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at all leases.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Of no disk where there is one: agents are on machines of their own, and do not write to a replica's disk.
const MEMORY: &str = "/dev/shm";
const BOOT: &str = "sbxbench";
/// Of each node: room for thousands of the run's sandboxes.
const CPU_MILLI: u64 = 1_000_000;
const MEMORY_BYTES: u64 = 1 << 42;

/// Agents of nodes `sim-0` and up. They end when it is dropped.
pub(super) struct Fleet {
    folder: tempfile::TempDir,
    authority: Authority,
    servers: Vec<String>,
    lease: Duration,
    agents: Vec<Simulated>,
    stop: CancellationToken,
    /// Threads of their own: what they do must not hold up the clients whose writes are measured. Taken when it ends.
    runtime: Option<Runtime>,
}

struct Simulated {
    node: Arc<session::Node>,
    _running: AbortOnDropHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
        // Nothing of it is to be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Fleet {
    /// None yet, of a cluster whose nodes are lost after `lease`.
    pub(super) fn new(local: &Local, lease: Duration) -> Result<Self, BenchError> {
        let system = |source| BenchError::System {
            act: "make room for simulated agents",
            source,
        };
        let folder = match Path::new(MEMORY).is_dir() {
            true => tempfile::tempdir_in(MEMORY),
            false => tempfile::tempdir(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("agents")
            .enable_all()
            .build();
        let read = |name| folder::read(&local.identity().join(name)).map_err(identity);
        let certificate = read(folder::AUTHORITY)?;
        let key = folder::read_secret(&local.identity().join(folder::AUTHORITY_KEY)).map_err(identity)?;
        Ok(Self {
            folder: folder.map_err(system)?,
            authority: Authority::open(&certificate, &key, SystemTime::now()).map_err(identity)?,
            servers: local.context()?.servers,
            lease,
            agents: Vec::new(),
            stop: CancellationToken::new(),
            runtime: Some(runtime.map_err(system)?),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.agents.len()
    }

    /// Begins more agents until there are `count`; returns when all are with the leader.
    pub(super) async fn grow(&mut self, count: usize) -> Result<(), BenchError> {
        let new: Vec<Arc<session::Node>> = (self.agents.len()..count)
            .map(|number| self.node(number).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let servers = &self.servers;
        let (stop, runtime) = (&self.stop, self.handle());
        let runtime = &runtime;
        let begun = futures::stream::iter(new).map(|node| async move {
            let running = runtime.spawn(run(servers.clone(), node.clone(), stop.clone()));
            tokio::time::timeout(PATIENCE, node.lease.held())
                .await
                .map_err(|_| BenchError::Timeout {
                    what: format!("a lease of {}", node.id),
                    seconds: PATIENCE.as_secs(),
                })?;
            Ok(Simulated {
                node,
                _running: AbortOnDropHandle::new(running),
            })
        });
        let begun: Vec<Result<Simulated, BenchError>> = begun.buffered(BEGIN_AT_ONCE).collect().await;
        for simulated in begun {
            self.agents.push(simulated?);
        }
        Ok(())
    }

    fn handle(&self) -> Handle {
        self.runtime
            .as_ref()
            .map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }

    fn node(&self, number: usize) -> Result<session::Node, BenchError> {
        let id = format!("sim-{number}");
        let folder = self.folder.path().join(&id);
        let node = NodeId::new(id).map_err(identity)?;
        let principal = Principal::Node(node.clone());
        let issued = self
            .authority
            .issue(&principal, &[], SystemTime::now())
            .map_err(identity)?;
        folder::create(&folder).map_err(identity)?;
        let files = [
            (folder::AUTHORITY, self.authority.certificate()),
            (folder::KEY, &issued.key),
            (folder::CERTIFICATE, &issued.chain),
            // Space that an agent keeps for a full disk: thousands of those are a disk full.
            ("reserve", ""),
        ];
        for (name, text) in files {
            folder::write(&folder.join(name), text).map_err(identity)?;
        }
        let reports = Reports::default();
        Ok(session::Node {
            dialer: Dialer::following(Credentials::open(&folder).map_err(identity)?),
            labels: Labels::new(),
            report: report(number),
            ledger: Arc::new(Ledger::open(&folder, BOOT).map_err(identity)?),
            lease: Arc::new(Lease::open(&folder, BOOT).map_err(identity)?),
            usage: Box::new(Used::default),
            replicas: watch::Sender::default(),
            sandboxes: Sandboxes {
                reports: reports.clone(),
                folder: folder.join("sandboxes"),
            },
            reports,
            id: node,
        })
    }

    /// How long each agent takes from now on until a leader has acknowledged a heartbeat that it sends; `None` for those
    /// that have not within `patience`.
    pub(super) async fn heard_again(&self, patience: Duration) -> Vec<Option<Duration>> {
        let begun = Instant::now();
        let renewed = BootTime::now().plus(self.lease - margin(self.lease));
        let mut times = vec![None; self.agents.len()];
        while times.iter().any(Option::is_none) && begun.elapsed() < patience {
            for (agent, time) in self
                .agents
                .iter()
                .zip(&mut times)
                .filter(|(_, time)| time.is_none())
            {
                let is_renewed = matches!(agent.node.lease.tenure(), Tenure::Until(until) if until > renewed);
                *time = is_renewed.then(|| begun.elapsed());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        times
    }

    /// Sandboxes that the agents say run.
    pub(super) fn running(&self) -> usize {
        let running = |agent: &Simulated| {
            let (inventory, _) = agent.node.reports.inventory();
            let of_phase = inventory
                .iter()
                .filter(|report| report.phase() == wire::Phase::Running);
            of_phase.count()
        };
        self.agents.iter().map(running).sum()
    }

    /// Every agent has something new to say of all its sandboxes every so often, until it is dropped.
    pub(super) fn flood(&self, every: Duration) -> Flood {
        let runtime = self.handle();
        let tasks = self.agents.iter().map(|agent| {
            let reports = agent.node.reports.clone();
            AbortOnDropHandle::new(runtime.spawn(async move {
                for round in 0_u64.. {
                    let (inventory, _) = reports.inventory();
                    for mut report in inventory {
                        report.message = format!("said {round} times");
                        reports.set(report);
                    }
                    tokio::time::sleep(every).await;
                }
            }))
        });
        Flood(tasks.collect())
    }
}

/// See [`Fleet::flood`].
pub(super) struct Flood(#[expect(dead_code, reason = "held")] Vec<AbortOnDropHandle<()>>);

/// A session, and make-believe for a runtime.
async fn run(servers: Vec<String>, node: Arc<session::Node>, stop: CancellationToken) {
    tokio::join!(
        session::run(servers, node.clone(), stop.clone()),
        stop.run_until_cancelled(pretend(&node))
    );
}

async fn pretend(node: &session::Node) {
    let mut accepted = node.ledger.follow();
    let mut there = BTreeMap::new();
    loop {
        let now = accepted.borrow_and_update().clone();
        if let Some(now) = now {
            obey(node, &now, &mut there);
        }
        if accepted.changed().await.is_err() {
            return;
        }
    }
}

fn obey(node: &session::Node, accepted: &Accepted, there: &mut BTreeMap<Uid, String>) {
    there.retain(|uid, id| {
        let wanted = accepted.sandboxes.contains_key(uid);
        if !wanted {
            node.reports.gone(*uid, id);
        }
        wanted
    });
    for (uid, wanted) in &accepted.sandboxes {
        let id = &wanted.desired.sandbox_id;
        if !wanted.desired.ended && there.insert(*uid, id.clone()).is_none() {
            node.reports.set(running(&wanted.desired));
        }
    }
    for (uid, id) in node.ledger.take_removed() {
        node.reports.gone(uid, &id);
    }
}

fn running(sandbox: &wire::DesiredSandbox) -> wire::SandboxReport {
    wire::SandboxReport {
        sandbox_id: sandbox.sandbox_id.clone(),
        uid: sandbox.uid,
        phase: wire::Phase::Running.into(),
        ip: "10.89.0.2".to_owned(),
        ..Default::default()
    }
}

fn report(number: usize) -> wire::NodeReport {
    wire::NodeReport {
        ip: format!("10.200.{}.{}", number / 250, number % 250 + 1),
        capacity: Some(wire::NodeCapacity {
            cpu_milli: CPU_MILLI,
            memory_bytes: MEMORY_BYTES,
            max_alloc_percent: 90,
        }),
        runtimes: vec![wire::RuntimeInfo {
            runtime: wire::Runtime::Native.into(),
            version: "1".to_owned(),
        }],
        default_runtime: wire::Runtime::Native.into(),
        agent_version: "1".to_owned(),
        ..Default::default()
    }
}

fn identity(error: impl std::error::Error + Send + Sync + 'static) -> BenchError {
    BenchError::System {
        act: "equip simulated agents",
        source: io::Error::other(error),
    }
}

//! Sandboxes of a cluster, driven as `sbxctl apply --wait` does: one write, and a watch that tells the rest.

use super::contender::{Contender, Started};
use super::image;
use crate::error::BenchError;
use crate::http;
use cli::client::{Change, Client};
use cli::context;
use proto::object::Kind;
use proto::wire::{self, Phase};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

const REQUEST: Duration = Duration::from_secs(30);
/// A thousand at once on a small machine take a minute.
const PATIENCE: Duration = Duration::from_secs(120);
/// Sandboxes of a run carry it, with the run's own value.
const LABEL: &str = "sbxbench";

pub(super) struct Sandboxes {
    client: Arc<Client>,
    run: String,
    /// By node.
    addresses: BTreeMap<String, IpAddr>,
    seen: Arc<Mutex<HashMap<String, watch::Sender<Seen>>>>,
    _watching: AbortOnDropHandle<()>,
}

/// What the watch has told of one sandbox, and when.
#[derive(Debug, Clone, Default)]
struct Seen {
    scheduled: Option<Instant>,
    running: Option<Instant>,
    gone: Option<Instant>,
    failed: Option<String>,
    status: wire::SandboxStatus,
}

impl Sandboxes {
    pub(super) async fn open(context: &context::File) -> Result<Self, BenchError> {
        let client = Arc::new(Client::of(context, REQUEST)?);
        let run = format!("{:x}", std::process::id());
        let nodes = client
            .list(&wire::ListRequest {
                kind: wire::Kind::Node.into(),
                ..Default::default()
            })
            .await?;
        let addresses = nodes.items.into_iter().filter_map(|object| match object.object? {
            wire::object::Object::Node(node) => {
                let ip = node.report?.ip.parse().ok()?;
                Some((node.id, ip))
            }
            wire::object::Object::Sandbox(_) | wire::object::Object::External(_) => None,
        });
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let (synced, is_synced) = tokio::sync::oneshot::channel();
        let watching = tokio::spawn(follow(client.clone(), run.clone(), seen.clone(), synced));
        is_synced.await.map_err(|_| BenchError::Unwatched)?;
        Ok(Self {
            client,
            run,
            addresses: addresses.collect(),
            seen,
            _watching: AbortOnDropHandle::new(watching),
        })
    }

    fn id(&self, number: u32) -> String {
        format!("bench-{}-{number}", self.run)
    }

    async fn until(
        &self,
        id: &str,
        seen: &mut watch::Receiver<Seen>,
        what: &str,
        is_so: impl Fn(&Seen) -> Option<Instant>,
    ) -> Result<Instant, BenchError> {
        let reached = seen.wait_for(|seen| seen.failed.is_some() || is_so(seen).is_some());
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        let reached = reached.map_err(|_| BenchError::Timeout {
            what: format!("sandbox {id} {what}"),
            seconds: PATIENCE.as_secs(),
        })?;
        let reached = reached.map_err(|_| BenchError::Unwatched)?;
        match (is_so(&reached), &reached.failed) {
            (Some(at), _) => Ok(at),
            (None, why) => Err(BenchError::Sandbox {
                id: id.to_owned(),
                why: why.clone().unwrap_or_default(),
            }),
        }
    }

    /// Where its published port leads to it from outside.
    fn published(&self, status: &wire::SandboxStatus) -> Result<SocketAddr, BenchError> {
        let node = &status.node_name;
        let no_address = || BenchError::NoAddress(node.clone());
        let ip = self.addresses.get(node).ok_or_else(no_address)?;
        let port = status.assigned_ports.first().ok_or_else(no_address)?;
        let port = u16::try_from(port.host_port).map_err(|_| no_address())?;
        Ok(SocketAddr::new(*ip, port))
    }

    fn manifest(&self, id: &str) -> Result<proto::spec::Manifest, BenchError> {
        let refused = |why: String| BenchError::Manifest(why);
        let args = serde_json::json!(image::server(&image::PORT.to_string()));
        let text = format!(
            "apiVersion: sandboxd.o/v1
kind: Sandbox
id: {id}
metadata: {{labels: {{{LABEL}: \"{}\"}}}}
spec:
  ports: [{{container_port: {}, protocol: tcp}}]
  containers:
    - name: web
      image: {}
      args: {args}
      resource: {{cpu: 1, memory: 32Mi, ephemeral_storage: 8Mi}}
",
            self.run,
            image::PORT,
            image::NAME
        );
        let parsed = proto::manifest::parse(&text).map_err(|faults| refused(format!("{faults:?}")))?;
        parsed
            .into_iter()
            .next()
            .ok_or_else(|| refused("it is empty".to_owned()))
    }
}

impl Contender for Sandboxes {
    async fn start(&self, number: u32) -> Result<Started, BenchError> {
        let id = self.id(number);
        let manifest = self.manifest(&id)?;
        let (told, mut seen) = watch::channel(Seen::default());
        lock(&self.seen).insert(id.clone(), told);
        let begun = Instant::now();
        self.client.apply(&manifest, false).await?;
        let accepted = Instant::now();
        let scheduled = self
            .until(&id, &mut seen, "scheduled", |seen| seen.scheduled)
            .await?;
        let running = self.until(&id, &mut seen, "running", |seen| seen.running).await?;
        let status = seen.borrow().status.clone();
        let answered = http::first_ok(self.published(&status)?).await?;
        let mut stages: BTreeMap<String, Duration> = status
            .timings_ms
            .iter()
            .map(|(stage, ms)| (format!("agent: {stage}"), Duration::from_millis(*ms)))
            .collect();
        let parts = [
            ("1 accepted", accepted - begun),
            (
                "2 accepted to scheduled",
                scheduled.saturating_duration_since(accepted),
            ),
            (
                "3 scheduled to running",
                running.saturating_duration_since(scheduled),
            ),
            (
                "4 running to answered",
                answered.saturating_duration_since(running),
            ),
            ("accepted to answered", answered - accepted),
        ];
        stages.extend(parts.map(|(stage, time)| (stage.to_owned(), time)));
        Ok(Started {
            answered: answered - begun,
            stages,
        })
    }

    async fn end(&self, number: u32) -> Result<Duration, BenchError> {
        let id = self.id(number);
        let seen = lock(&self.seen).get(&id).map(watch::Sender::subscribe);
        let Some(mut seen) = seen else {
            return Ok(Duration::ZERO);
        };
        let begun = Instant::now();
        self.client.delete(Kind::Sandbox, &id, false).await?;
        // A failed one is deleted as well.
        let gone = seen.wait_for(|seen| seen.gone.is_some());
        let gone = tokio::time::timeout(PATIENCE, gone).await;
        let gone = gone.map_err(|_| BenchError::Timeout {
            what: format!("sandbox {id} gone"),
            seconds: PATIENCE.as_secs(),
        })?;
        let at = gone.map_err(|_| BenchError::Unwatched)?.gone.unwrap_or(begun);
        lock(&self.seen).remove(&id);
        Ok(at.saturating_duration_since(begun))
    }
}

/// Notes what happens to the sandboxes of this run, until it is aborted.
async fn follow(
    client: Arc<Client>,
    run: String,
    seen: Arc<Mutex<HashMap<String, watch::Sender<Seen>>>>,
    synced: tokio::sync::oneshot::Sender<()>,
) {
    let mut synced = Some(synced);
    let mut changes = client.watch(wire::WatchRequest {
        kind: wire::Kind::Sandbox.into(),
        labels: [(LABEL.to_owned(), run)].into(),
        ..Default::default()
    });
    loop {
        let change = match changes.next().await {
            Ok(change) => change,
            Err(error) => {
                crate::output::tell(format_args!("the watch has ended: {error}"));
                // Whoever waits is told by the senders' end.
                lock(&seen).clear();
                return;
            }
        };
        let now = Instant::now();
        let (object, is_gone) = match change {
            Change::Changed(object) => (object, false),
            Change::Deleted(object) => (object, true),
            Change::Synced => {
                if let Some(synced) = synced.take() {
                    // Who waited may have given up.
                    let _ = synced.send(());
                }
                continue;
            }
        };
        let Some(wire::object::Object::Sandbox(sandbox)) = object.object else {
            continue;
        };
        if let Some(told) = lock(&seen).get(&sandbox.id) {
            told.send_modify(|seen| note(seen, sandbox.status.unwrap_or_default(), is_gone, now));
        }
    }
}

fn note(seen: &mut Seen, status: wire::SandboxStatus, is_gone: bool, now: Instant) {
    let phase = status.phase();
    if is_gone {
        seen.gone = Some(now);
    } else if phase == Phase::Failed {
        seen.failed = Some(status.last_error.clone());
    } else if matches!(phase, Phase::Scheduled | Phase::Running) {
        seen.scheduled.get_or_insert(now);
        if phase == Phase::Running {
            seen.running.get_or_insert(now);
        }
    }
    seen.status = status;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Writers and questions to a cluster of ours, as `sbxctl` asks them.

use super::load::Writer;
use crate::error::BenchError;
use crate::local::Local;
use cli::client::{Client, ClientError};
use cli::context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use proto::object::Kind;
use proto::spec::Manifest;
use proto::units::Bytes;
use proto::wire;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of one request with all its attempts. A cluster that needs longer is not slow but broken.
const REQUEST: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// As long as a label may be.
const PADDING: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A sandbox that no node takes: a write, and nothing that follows from it but why it waits.
    Waiting,
    /// One that is placed.
    Placed,
    /// An object that nothing follows from: the name of a node, padded to about as many bytes.
    Name,
    /// One that no node takes, of a [`LARGE`] environment that can't be compressed; another one in each round, in the
    /// place of that of the round before.
    Large { round: u64 },
}

/// Of an environment; some of these fit into one entry of the log.
pub(super) const LARGE: Bytes = Bytes::mib(1);

/// A client of its own.
pub(super) fn client(local: &Local) -> Result<Client, BenchError> {
    Ok(Client::of(&local.context()?, REQUEST)?)
}

/// A client that knows these replicas alone at first.
pub(super) fn client_of(local: &Local, servers: Vec<String>) -> Result<Client, BenchError> {
    let context = context::File {
        servers,
        ..local.context()?
    };
    Ok(Client::of(&context, REQUEST)?)
}

pub(super) struct Sandboxes {
    client: Arc<Client>,
    prefix: String,
    what: What,
}

impl Sandboxes {
    /// Ids begin with `prefix`.
    pub(super) fn new(client: Client, prefix: &str, what: What) -> Self {
        Self {
            client: Arc::new(client),
            prefix: prefix.to_owned(),
            what,
        }
    }
}

impl Writer for Sandboxes {
    async fn write(&self, number: u64) -> Result<(), BenchError> {
        let manifest = manifest(&format!("{}-{number}", self.prefix), self.what)?;
        let replace = matches!(self.what, What::Large { round } if round > 0);
        self.client.apply(&manifest, replace).await?;
        Ok(())
    }
}

pub(super) fn manifest(id: &str, what: What) -> Result<Manifest, BenchError> {
    let text = match what {
        What::Waiting | What::Large { .. } => sandbox(id, "{nowhere: 'true'}"),
        What::Placed => sandbox(id, "{}"),
        What::Name => format!(
            "apiVersion: sandboxd.o/v1\nkind: External\nid: {id}\nmetadata: {{labels: {{a: {PADDING}, b: {PADDING}}}}}\n\
             spec: {{node_id: {id}, external: {id}}}\n"
        ),
    };
    let refused = |why: String| BenchError::Manifest(why);
    let parsed = proto::manifest::parse(&text).map_err(|faults| refused(format!("{faults:?}")))?;
    let manifest = parsed.into_iter().next();
    let manifest = manifest.ok_or_else(|| refused("it is empty".to_owned()))?;
    let What::Large { round } = what else {
        return Ok(manifest);
    };
    let mut large = wire::Manifest::from(&manifest);
    if let Some(wire::manifest::Spec::Sandbox(spec)) = &mut large.spec {
        let container = spec.containers.iter_mut();
        container.for_each(|container| container.env.push(format!("LARGE={}", noise(id, round))));
    }
    Manifest::try_from(large).map_err(|error| refused(error.to_string()))
}

/// Text of [`LARGE`] bytes, always the same for the same id and round.
fn noise(id: &str, round: u64) -> String {
    /// LZ4 looks back for 64 KiB: what is repeated at a greater distance is not compressed.
    const BLOCK: usize = 128 << 10;
    let mut hasher = DefaultHasher::new();
    (id, round).hash(&mut hasher);
    let mut state = hasher.finish() | 1;
    let block: String = (0..BLOCK)
        .map(|_| {
            // xorshift64 (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'!' + (state % 94) as u8)
        })
        .collect();
    block.repeat(usize::try_from(LARGE.0).unwrap_or(BLOCK) / BLOCK)
}

/// Of the snapshots that a replica has, in all their files.
pub(super) fn snapshot_bytes(local: &Local, replica: &Replica) -> Result<u64, BenchError> {
    let data = local.members().join(&replica.name).join("data");
    size_of(&data.join("state").join("snapshots")).map_err(|source| BenchError::System {
        act: "measure a snapshot",
        source,
    })
}

/// Of all files below a folder. One that goes meanwhile counts as none.
fn size_of(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        total += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()).unwrap_or(0),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        };
    }
    Ok(total)
}

fn sandbox(id: &str, selector: &str) -> String {
    format!(
        "apiVersion: sandboxd.o/v1
kind: Sandbox
id: {id}
metadata: {{labels: {{team: bench}}}}
spec:
  node_selector: {selector}
  ports: [{{container_port: 8080}}]
  containers:
    - name: main
      image: docker.io/library/busybox:1.36
      args: [sleep, '600']
      resource: {{cpu: 10m, memory: 1Mi, ephemeral_storage: 1Mi}}
"
    )
}

/// Bytes of one of them, as they travel and are stored.
pub(super) fn size() -> Result<usize, BenchError> {
    Ok(wire::Manifest::from(&manifest("bench-0-12345", What::Waiting)?).encoded_len())
}

/// Writes `count` sandboxes whose numbers begin with `first`, by `clients` at once.
pub(super) async fn write_many(
    local: &Local,
    prefix: &str,
    what: What,
    first: u64,
    count: u64,
    clients: u64,
) -> Result<(), BenchError> {
    let each = (0..clients).map(|client| async move {
        let writer = Sandboxes::new(self::client(local)?, prefix, what);
        for number in (first + client..first + count).step_by(clients as usize) {
            writer.write(number).await?;
        }
        Ok::<_, BenchError>(())
    });
    futures::future::try_join_all(each).await?;
    Ok(())
}

/// Returns once every replica answers and has all that was written.
pub(super) async fn whole(local: &Local) -> Result<wire::ClusterResponse, BenchError> {
    let client = client(local)?;
    let begun = Instant::now();
    while begun.elapsed() < REQUEST {
        match client.cluster(false).await {
            Ok(cluster)
                if cluster.leader_id != 0 && cluster.replicas.iter().all(|r| r.reachable && r.lag == 0) =>
            {
                return Ok(cluster);
            }
            Ok(_) => {}
            Err(error) if error.is_timeout() => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(BenchError::Timeout {
        what: "all replicas being there and up to date".to_owned(),
        seconds: REQUEST.as_secs(),
    })
}

/// A replica, as `sbxctl dev` has made it.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) endpoint: String,
    pub(super) pid: u32,
    pub(super) leads: bool,
}

/// All replicas that run.
pub(super) fn replicas(local: &Local) -> Result<Vec<Replica>, BenchError> {
    let status = tokio::task::block_in_place(|| local.status())?;
    let members = status["members"].as_array().into_iter().flatten();
    let replicas = members.filter_map(|member| {
        let name = member["name"]
            .as_str()
            .filter(|name| name.starts_with("replica-"))?;
        let address = member["address"].as_str()?;
        Some(Replica {
            name: name.to_owned(),
            address: address.to_owned(),
            endpoint: format!("https://{address}:7070"),
            pid: u32::try_from(member["pid"].as_u64()?).ok()?,
            leads: member["role"] == "leader",
        })
    });
    Ok(replicas.collect())
}

/// Does something with `sbxctl dev`.
pub(super) fn dev(local: &Local, args: &[&str]) -> Result<(), BenchError> {
    tokio::task::block_in_place(|| local.run("sbxctl", &[&["dev"], args].concat()))?;
    Ok(())
}

/// Sends a signal to a replica's process.
pub(super) fn signal(replica: &Replica, signal: Signal) -> Result<(), BenchError> {
    let pid = Pid::from_raw(i32::try_from(replica.pid).unwrap_or(i32::MAX));
    kill(pid, signal).map_err(|source| BenchError::System {
        act: "signal a replica",
        source: io::Error::from(source),
    })
}

/// Number of sandboxes in this phase.
pub(super) async fn count(client: &Client, phase: wire::Phase) -> Result<usize, ClientError> {
    let request = wire::ListRequest {
        kind: wire::Kind::from(Kind::Sandbox).into(),
        phase: phase.into(),
        stale: true,
        ..Default::default()
    };
    Ok(client.list(&request).await?.items.len())
}

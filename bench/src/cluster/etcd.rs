//! Members of etcd on this machine, each in the network namespace of one of our replicas, on the same disk, with TLS as
//! they have: what our writes and failovers are measured beside. Owns their processes; they end when it is dropped.

mod wire;

use super::load::Writer;
use crate::error::BenchError;
use crate::local::output;
use identity::authority::Authority;
use identity::dial::Dialer;
use identity::folder;
use identity::principal::Principal;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tonic::transport::Channel;
use tonic::{Code, Status};

const LOG: &str = "log";
/// For the first election of the members.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of one attempt while a leader is being replaced: etcd keeps a request waiting that it can't serve.
const ATTEMPT: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(5);

/// Where a member runs: the network of one of our replicas.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) address: String,
    pub(super) netns: PathBuf,
}

pub(super) struct Etcd {
    program: PathBuf,
    folder: PathBuf,
    dialer: Dialer,
    homes: Vec<Home>,
    /// One per home.
    members: Vec<Option<Child>>,
}

impl Etcd {
    /// Starts `program` in a new folder; returns when a write is acknowledged.
    ///
    /// # Errors
    /// [`BenchError`], also where there is no such program.
    pub(super) async fn start(program: &Path, folder: PathBuf, homes: Vec<Home>) -> Result<Self, BenchError> {
        // Whether it is there is told best without another program in between.
        let mut version = Command::new(program);
        version.arg("--version");
        output(version)?;
        folder::create(&folder).map_err(system)?;
        let authority = Authority::create(SystemTime::now()).map_err(system)?;
        for (number, home) in homes.iter().enumerate() {
            let principal = Principal::Replica(number as u64);
            // A member's certificate is checked against the address that it dials from as well.
            let hosts = [home.address.clone(), "127.0.0.1".to_owned()];
            let issued = authority.issue(&principal, &hosts, SystemTime::now());
            let issued = issued.map_err(system)?;
            let dir = folder.join(name(number));
            folder::create(&dir).map_err(system)?;
            let files = [
                (folder::AUTHORITY, authority.certificate()),
                (folder::KEY, &issued.key),
                (folder::CERTIFICATE, &issued.chain),
            ];
            for (file, text) in files {
                folder::write(&dir.join(file), text).map_err(system)?;
            }
        }
        let mut etcd = Self {
            program: program.to_owned(),
            folder,
            dialer: Dialer::trusting(authority.certificate()).map_err(system)?,
            members: homes.iter().map(|_| None).collect(),
            homes,
        };
        for number in etcd.all() {
            etcd.run(number)?;
        }
        match etcd.until_it_writes(etcd.all().collect()).await {
            Ok(()) => Ok(etcd),
            Err(source) => Err(BenchError::EtcdStart {
                source: Box::new(source),
                log: etcd.last_words(),
            }),
        }
    }

    /// The last line that the first member has logged.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.join(name(0)).join(LOG)).unwrap_or_default();
        log.lines().last().unwrap_or("nothing").to_owned()
    }

    fn all(&self) -> Range<usize> {
        0..self.homes.len()
    }

    fn run(&mut self, number: usize) -> Result<(), BenchError> {
        let dir = self.folder.join(name(number));
        let file = |name: &str| dir.join(name).display().to_string();
        let (client, peer) = (self.client_url(number), self.peer_url(number));
        let all = self.all().map(|n| format!("{}={}", name(n), self.peer_url(n)));
        let all: Vec<String> = all.collect();
        let options = [
            ("name", name(number)),
            ("data-dir", file("data")),
            ("listen-client-urls", client.clone()),
            ("advertise-client-urls", client),
            ("listen-peer-urls", peer.clone()),
            ("initial-advertise-peer-urls", peer),
            ("initial-cluster", all.join(",")),
            ("initial-cluster-state", "new".to_owned()),
            ("cert-file", file(folder::CERTIFICATE)),
            ("key-file", file(folder::KEY)),
            ("peer-cert-file", file(folder::CERTIFICATE)),
            ("peer-key-file", file(folder::KEY)),
            ("peer-trusted-ca-file", file(folder::AUTHORITY)),
            ("peer-client-cert-auth", "true".to_owned()),
            ("logger", "zap".to_owned()),
            ("log-level", "warn".to_owned()),
        ];
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join(LOG))
            .map_err(system)?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.homes[number].netns.display()))
            .arg(&self.program)
            .args(options.iter().map(|(name, value)| format!("--{name}={value}")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(system)?)
            .stderr(log)
            .spawn();
        let child = child.map_err(|source| BenchError::Run {
            program: self.program.display().to_string(),
            source,
        })?;
        self.members[number] = Some(child);
        Ok(())
    }

    fn client(&self, number: usize) -> Result<wire::Client, BenchError> {
        let endpoint = self.dialer.endpoint(&self.client_url(number)).map_err(system)?;
        Ok(wire::Client::new(self.dialer.lazy(&endpoint)))
    }

    /// Writers with connections of their own, all to the leader, as ours find it as well.
    pub(super) async fn writers(&self, count: usize, bytes: usize) -> Result<Vec<Puts>, BenchError> {
        let leader = self.leader().await?;
        let puts = (0..count).map(|n| {
            Ok(Puts {
                client: self.client(leader)?,
                prefix: format!("bench-{n}"),
                value: vec![0x5a; bytes],
            })
        });
        puts.collect()
    }

    async fn leader(&self) -> Result<usize, BenchError> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            for number in self.all() {
                let asked = self.client(number)?;
                let status = tokio::time::timeout(ATTEMPT, asked.status()).await;
                if let Ok(Ok(status)) = status
                    && status.leads()
                {
                    return Ok(number);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(BenchError::Timeout {
            what: "an election of etcd".to_owned(),
            seconds: PATIENCE.as_secs(),
        })
    }

    /// How long a client of the others waits for its write to be acknowledged from the moment on at which the leader is
    /// killed. The leader is started again, and has caught up afterwards.
    pub(super) async fn kill_leader(&mut self) -> Result<Duration, BenchError> {
        let leader = self.leader().await?;
        let others: Vec<usize> = self.all().filter(|number| *number != leader).collect();
        // Connected before, as a client is.
        self.until_it_writes(others.clone()).await?;
        let begun = Instant::now();
        self.end(leader);
        self.until_it_writes(others).await?;
        let took = begun.elapsed();
        self.run(leader)?;
        // A read that is linearizable: what was written meanwhile is there.
        self.until_it_writes(vec![leader]).await?;
        Ok(took)
    }

    /// Returns when one of these members has acknowledged a write.
    async fn until_it_writes(&self, members: Vec<usize>) -> Result<(), BenchError> {
        let clients: Vec<wire::Client> = members
            .iter()
            .map(|n| self.client(*n))
            .collect::<Result<_, _>>()?;
        let begun = Instant::now();
        let mut why = None;
        while begun.elapsed() < PATIENCE {
            for client in &clients {
                match tokio::time::timeout(ATTEMPT, client.put(b"probe", b"x")).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(status)) => why = Some(status),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(refused(why.unwrap_or_else(|| {
            Status::new(Code::DeadlineExceeded, "no answer")
        })))
    }

    fn client_url(&self, number: usize) -> String {
        format!("https://{}:2379", self.homes[number].address)
    }

    fn peer_url(&self, number: usize) -> String {
        format!("https://{}:2380", self.homes[number].address)
    }

    fn end(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].take() {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for number in self.all() {
            self.end(number);
        }
    }
}

/// Puts of values of one size.
pub(super) struct Puts {
    client: wire::Client,
    prefix: String,
    value: Vec<u8>,
}

impl Writer for Puts {
    async fn write(&self, number: u64) -> Result<(), BenchError> {
        let key = format!("{}-{number}", self.prefix);
        self.client
            .put(key.as_bytes(), &self.value)
            .await
            .map_err(refused)
    }
}

fn name(number: usize) -> String {
    format!("etcd-{number}")
}

fn system(error: impl std::error::Error + Send + Sync + 'static) -> BenchError {
    BenchError::System {
        act: "set up etcd",
        source: io::Error::other(error),
    }
}

fn refused(status: Status) -> BenchError {
    BenchError::Etcd(Box::new(status))
}

/// The channel that requests go over.
type Connection = Channel;

//! What an administrator sets: flags, `SBX_...` variables and a TOML file, merged in that order of precedence
//! over defaults, and checked once into [`Config`]. Owns names, defaults and their explanation; starts nothing.
//! Called by `main`.

mod values;

use crate::admission::Limits;
use crate::raft::{IdentityError, data_owner};
use crate::schedule::Policy;
use crate::state::Level;
use clap::Args;
use identity::folder;
use identity::token::{JoinToken, TokenError};
use proto::units::Bytes;
use serde::{Deserialize, Serialize};
use spans::{Endpoint, EndpointError};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
pub use values::{LogFormat, Peer, PeerError, Size, Span};

/// Loopback: a replica is reached from elsewhere only where somebody asked for it.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
const DEFAULT_PEER_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7071);

/// The write-ahead logs of both databases, and tables that are merged, several times over.
const DEFAULT_MIN_FREE_DISK: Bytes = Bytes::mib(256);

const DEFAULT_TLS_DIR: &str = "/etc/sandboxd/tls";

/// What all URLs of a cluster begin with.
fn scheme(insecure: bool) -> &'static str {
    if insecure { "http://" } else { "https://" }
}

/// openraft warns of a replica that it can't reach 20 times a second; our own lines say once what matters.
const DEFAULT_LOG: &str = "info,openraft=error";

/// Every key, each optional: as given on the command line, in the environment or in the file. The doc comments
/// are the text of `--help`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[command(next_help_heading = "Settings (each is also a key of the TOML file)")]
pub struct Settings {
    /// This replica's number, 1 or more, never used by another replica of the cluster, nor again after this
    /// replica has lost its data. With --join, by default the next free one
    #[arg(long, env = "SBX_ID", value_name = "N", global = true)]
    pub id: Option<u64>,

    /// Where users and agents are served (gRPC and HTTP on one port) [default: 127.0.0.1:7070]
    #[arg(long, env = "SBX_LISTEN", value_name = "ADDRESS:PORT", global = true)]
    pub listen: Option<SocketAddr>,

    /// Where the other replicas are served [default: 127.0.0.1:7071]
    #[arg(long, env = "SBX_PEER_LISTEN", value_name = "ADDRESS:PORT", global = true)]
    pub peer_listen: Option<SocketAddr>,

    /// How users and agents reach this replica, told to them when they must follow the leader
    /// [default: https://<listen>]
    #[arg(long, env = "SBX_ADVERTISE", value_name = "URL", global = true)]
    pub advertise: Option<String>,

    /// How the other replicas reach this one [default: https://<peer-listen>]
    #[arg(long, env = "SBX_ADVERTISE_PEER", value_name = "URL", global = true)]
    pub advertise_peer: Option<String>,

    /// Where the log, the state and snapshots are kept; must survive a restart [default: /var/lib/sbxorch]
    #[arg(long, env = "SBX_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,

    /// All replicas of a new cluster, this one included: ID=PEER_URL=URL[,...], the same list on each of them.
    /// It forms the cluster at the very first start and is ignored from then on. Without it, run
    /// `sbxorch cluster init` once the replicas run
    #[arg(
        long,
        env = "SBX_INITIAL_CLUSTER",
        value_name = "LIST",
        value_delimiter = ',',
        global = true
    )]
    pub initial_cluster: Option<Vec<Peer>>,

    /// Join the cluster that these replicas belong to, at the first start: with an empty data folder, it is told its
    /// number, gets a certificate with --join-token, is sent all there is, and has a vote then. Ignored once this
    /// replica is a member
    #[arg(
        long,
        env = "SBX_JOIN",
        value_name = "URL",
        value_delimiter = ',',
        global = true
    )]
    pub join: Option<Vec<String>>,

    /// Lets this replica into the cluster of --join where it has no certificate yet: what `sbxctl token create
    /// --join-replica` has printed, or a file that holds it. Good for one replica
    #[arg(
        long,
        env = "SBX_JOIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN|FILE",
        global = true
    )]
    pub join_token: Option<String>,

    /// Where this replica's identity is: ca.crt, tls.crt and tls.key, as `sbxctl cluster init` makes them. Files that
    /// are exchanged are used without a restart [default: /etc/sandboxd/tls]
    #[arg(long, env = "SBX_TLS_DIR", value_name = "DIR", global = true)]
    pub tls_dir: Option<PathBuf>,

    /// The key of the cluster's certificate authority, with which this replica lets machines in and renews
    /// certificates; without it, others do [default: ca.key in --tls-dir]
    #[arg(long, env = "SBX_CA_KEY", value_name = "FILE", global = true)]
    pub ca_key: Option<PathBuf>,

    /// No TLS and no tokens: serve plain text, and let anybody who reaches the ports do anything. For tests, or for
    /// networks that only trusted machines reach
    #[arg(long, env = "SBX_INSECURE", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL", global = true)]
    pub insecure: Option<bool>,

    /// On the disk of --data-dir, so much is to be free: with less, users can create nothing, with a quarter of it
    /// nothing is written. An eighth of it is kept in a file for that case [default: 256Mi]
    #[arg(long, env = "SBX_MIN_FREE_DISK", value_name = "SIZE", global = true)]
    pub min_free_disk: Option<Size>,

    /// How often an agent says that it lives [default: 1s]
    #[arg(long, env = "SBX_HEARTBEAT", value_name = "TIME", global = true)]
    pub heartbeat: Option<Span>,

    /// Without heartbeats for this long a node is NotReady and takes no new sandboxes [default: 10s]
    #[arg(long, env = "SBX_NODE_GRACE", value_name = "TIME", global = true)]
    pub node_grace: Option<Span>,

    /// Without heartbeats for this long a node is Lost: its sandboxes fail, or are placed elsewhere where they
    /// ask for it. With less than 9s, the old copy may outlive the begin of the new one by some tenths of a second
    /// where leader and agent are cut off together: for tests only [default: 60s]
    #[arg(long, env = "SBX_NODE_LEASE", value_name = "TIME", global = true)]
    pub node_lease: Option<Span>,

    /// How long an ended sandbox, its status and its logs are kept unless it is deleted before [default: 1h]
    #[arg(long, env = "SBX_ENDED_RETENTION", value_name = "TIME", global = true)]
    pub ended_retention: Option<Span>,

    /// Remove a replica that could not be reached for this long, once a newer one has taken its place and all others
    /// answer. The leader's counts [default: never]
    #[arg(long, env = "SBX_REMOVE_DEAD_AFTER", value_name = "TIME", global = true)]
    pub remove_dead_after: Option<Span>,

    /// Where sandboxes go among the nodes that fit: `spread` prefers the one with most left, `binpack` the one with
    /// least. The leader's counts [default: spread]
    #[arg(long, env = "SBX_SCHEDULING", value_name = "POLICY", global = true)]
    pub scheduling: Option<Policy>,

    /// New sandboxes per second that the cluster takes once a burst is over; more are refused, and asked for again later.
    /// 0: as many as come. The leader's counts [default: 1000]
    #[arg(long, env = "SBX_CREATE_RATE", value_name = "N", global = true)]
    pub create_rate: Option<u32>,

    /// New sandboxes that the cluster takes at once after a quiet time [default: 5000]
    #[arg(long, env = "SBX_CREATE_BURST", value_name = "N", global = true)]
    pub create_burst: Option<u32>,

    /// Send spans of sandboxes on their way from the request to Running to this collector, by OTLP over gRPC, such as
    /// http://127.0.0.1:4317 [default: that of OTEL_EXPORTER_OTLP_ENDPOINT, or none]
    #[arg(long, env = "SBX_OTLP_ENDPOINT", value_name = "URL", global = true)]
    pub otlp_endpoint: Option<String>,

    /// What to log: a level, or directives such as `info,control_plane=debug` [default: info,openraft=error]
    #[arg(long, env = "SBX_LOG", value_name = "FILTER", global = true)]
    pub log: Option<String>,

    /// How log lines on stderr look [default: human]
    #[arg(long, env = "SBX_LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
}

/// The settings in force, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// 0 where it is not known before this replica has joined: then `join` is there.
    pub id: u64,
    pub listen: SocketAddr,
    pub peer_listen: SocketAddr,
    pub advertise: String,
    pub advertise_peer: String,
    pub data_dir: PathBuf,
    /// On the disk of `data_dir`.
    pub min_free_disk: Bytes,
    /// Empty: wait for `sbxorch cluster init`.
    pub initial_cluster: Vec<Peer>,
    /// The cluster to join at the first start.
    pub join: Option<Join>,
    /// `None`: plain text was asked for.
    pub tls: Option<TlsFiles>,
    pub timings: Timings,
    pub scheduling: Policy,
    pub limits: Limits,
    /// Where spans are sent to.
    pub otlp_endpoint: Option<Endpoint>,
    /// What this replica can apply: [`Level::NEWEST`], but for tests of upgrades.
    pub level: Level,
}

/// Where a replica's identity is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub dir: PathBuf,
    pub authority_key: PathBuf,
}

/// The way into a cluster that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// At least one.
    pub servers: Vec<String>,
    /// `None`: there is a certificate already, or plain text is spoken.
    pub token: Option<JoinToken>,
}

/// Times that users of the cluster notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    pub heartbeat: Duration,
    pub node_grace: Duration,
    pub node_lease: Duration,
    pub ended_retention: Duration,
    /// `None`: a dead replica is an administrator's affair.
    pub remove_dead_after: Option<Duration>,
}

impl Default for Timings {
    /// As the contract has them.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            node_grace: Duration::from_secs(10),
            node_lease: Duration::from_secs(60),
            ended_retention: Duration::from_secs(3600),
            remove_dead_after: None,
        }
    }
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration file {} is not valid: {source}", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error(transparent)]
    Data(#[from] IdentityError),
    #[error("cannot show the settings: {0}")]
    Print(#[from] toml::ser::Error),
    #[error("the settings cannot be used:\n{}", .0.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong with the settings, with its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("id: every replica needs a number of its own, 1 or more (--id 1)")]
    Id,
    #[error("{key}: {address} does not tell others how to reach this replica; set --{flag}")]
    Unreachable {
        key: &'static str,
        flag: &'static str,
        address: SocketAddr,
    },
    #[error("{key}: `{url}` must begin with {scheme}{}", if *.scheme == "http://" { ", as --insecure is given" } else { "; plain text takes --insecure" })]
    Url {
        key: &'static str,
        url: String,
        scheme: &'static str,
    },
    #[error("join_token: {0}")]
    JoinToken(String),
    #[error("join: a replica joins a cluster, or forms one with initial_cluster, not both")]
    JoinAndForm,
    #[error("initial_cluster: replica {0} occurs twice")]
    Twice(u64),
    #[error("initial_cluster: this replica, {0}, is not in the list")]
    Missing(u64),
    #[error("initial_cluster: {0} replicas cannot form a cluster, it takes 1, 3 or 5")]
    Size(usize),
    #[error("initial_cluster: says that replica {id} is at {listed}, but its {key} is {own}")]
    Differs {
        id: u64,
        key: &'static str,
        listed: String,
        own: String,
    },
    #[error("otlp_endpoint: `{0}` {1}")]
    OtlpEndpoint(String, EndpointError),
    #[error("create_burst: nothing could ever be created with 0")]
    Burst,
    #[error("{longer}: must be longer than {shorter}")]
    Order {
        shorter: &'static str,
        longer: &'static str,
    },
}

impl Settings {
    /// Reads the TOML file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Read`] and [`ConfigError::Parse`], with the path; unknown keys are errors.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// What the environment says in the words of a standard, not in ours: the endpoint of OpenTelemetry.
    #[must_use]
    pub fn of_standards() -> Self {
        Self {
            otlp_endpoint: spans::export::standard_endpoint(),
            ..Self::default()
        }
    }

    /// These settings, and those of `other` where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            id: self.id.or(other.id),
            listen: self.listen.or(other.listen),
            peer_listen: self.peer_listen.or(other.peer_listen),
            advertise: self.advertise.or(other.advertise),
            advertise_peer: self.advertise_peer.or(other.advertise_peer),
            data_dir: self.data_dir.or(other.data_dir),
            min_free_disk: self.min_free_disk.or(other.min_free_disk),
            initial_cluster: self.initial_cluster.or(other.initial_cluster),
            join: self.join.or(other.join),
            join_token: self.join_token.or(other.join_token),
            insecure: self.insecure.or(other.insecure),
            tls_dir: self.tls_dir.or(other.tls_dir),
            ca_key: self.ca_key.or(other.ca_key),
            heartbeat: self.heartbeat.or(other.heartbeat),
            node_grace: self.node_grace.or(other.node_grace),
            node_lease: self.node_lease.or(other.node_lease),
            ended_retention: self.ended_retention.or(other.ended_retention),
            remove_dead_after: self.remove_dead_after.or(other.remove_dead_after),
            scheduling: self.scheduling.or(other.scheduling),
            create_rate: self.create_rate.or(other.create_rate),
            create_burst: self.create_burst.or(other.create_burst),
            otlp_endpoint: self.otlp_endpoint.or(other.otlp_endpoint),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }

    /// These settings with the default of every key that has one.
    #[must_use]
    pub fn or_defaults(self) -> Self {
        let listen = self.listen.unwrap_or(DEFAULT_LISTEN);
        let peer_listen = self.peer_listen.unwrap_or(DEFAULT_PEER_LISTEN);
        let scheme = scheme(self.insecure == Some(true));
        let reachable =
            |address: SocketAddr| (!address.ip().is_unspecified()).then(|| format!("{scheme}{address}"));
        let tls_dir = self
            .tls_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_TLS_DIR));
        let times = Timings::default();
        let limits = Limits::default();
        self.or(Self {
            id: None,
            listen: Some(listen),
            peer_listen: Some(peer_listen),
            advertise: reachable(listen),
            advertise_peer: reachable(peer_listen),
            data_dir: Some(PathBuf::from("/var/lib/sbxorch")),
            min_free_disk: Some(Size(DEFAULT_MIN_FREE_DISK)),
            initial_cluster: Some(Vec::new()),
            join: Some(Vec::new()),
            join_token: None,
            insecure: Some(false),
            ca_key: Some(tls_dir.join(identity::folder::AUTHORITY_KEY)),
            tls_dir: Some(tls_dir),
            heartbeat: Some(Span(times.heartbeat)),
            node_grace: Some(Span(times.node_grace)),
            node_lease: Some(Span(times.node_lease)),
            ended_retention: Some(Span(times.ended_retention)),
            remove_dead_after: None,
            scheduling: Some(Policy::default()),
            create_rate: Some(limits.create_rate),
            create_burst: Some(limits.create_burst),
            otlp_endpoint: None,
            log: Some(DEFAULT_LOG.to_owned()),
            log_format: Some(LogFormat::Human),
        })
    }

    /// As a TOML file that `--config` would read.
    ///
    /// # Errors
    /// [`ConfigError::Print`] where a value has no TOML form, such as a path that is not UTF-8.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        Ok(toml::to_string_pretty(self)?)
    }

    /// With the number that the data folder is for, where none is given.
    ///
    /// # Errors
    /// [`ConfigError::Data`]
    pub fn or_owner(mut self) -> Result<Self, ConfigError> {
        if self.id.is_none()
            && let Some(dir) = self.clone().or_defaults().data_dir
        {
            self.id = data_owner(&dir)?;
        }
        Ok(self)
    }

    /// Checks the settings, with defaults where they say nothing.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all that is wrong, not just the first.
    pub fn check(self) -> Result<Config, ConfigError> {
        let mut problems = Vec::new();
        let given = self.or_defaults();
        let listen = given.listen.unwrap_or(DEFAULT_LISTEN);
        let peer_listen = given.peer_listen.unwrap_or(DEFAULT_PEER_LISTEN);
        let servers = given.join.unwrap_or_default();
        if given.id == Some(0) || (given.id.is_none() && servers.is_empty()) {
            problems.push(Problem::Id);
        }
        let insecure = given.insecure == Some(true);
        let scheme = scheme(insecure);
        let mut url = |key, flag, url: Option<String>, address| match url {
            None => {
                problems.push(Problem::Unreachable { key, flag, address });
                String::new()
            }
            Some(url) => {
                if url.strip_prefix(scheme).is_none_or(str::is_empty) {
                    problems.push(Problem::Url {
                        key,
                        url: url.clone(),
                        scheme,
                    });
                }
                url
            }
        };
        let advertise = url("advertise", "advertise", given.advertise, listen);
        let advertise_peer = url(
            "advertise_peer",
            "advertise-peer",
            given.advertise_peer,
            peer_listen,
        );
        for server in &servers {
            if server.strip_prefix(scheme).is_none_or(str::is_empty) {
                problems.push(Problem::Url {
                    key: "join",
                    url: server.clone(),
                    scheme,
                });
            }
        }
        let token = given.join_token.map(|text| join_token(&text)).transpose();
        let join = Join {
            servers,
            token: token.unwrap_or_else(|why| {
                problems.push(Problem::JoinToken(why));
                None
            }),
        };
        let times = Timings::default();
        let timings = Timings {
            heartbeat: given.heartbeat.map_or(times.heartbeat, |s| s.0),
            node_grace: given.node_grace.map_or(times.node_grace, |s| s.0),
            node_lease: given.node_lease.map_or(times.node_lease, |s| s.0),
            ended_retention: given.ended_retention.map_or(times.ended_retention, |s| s.0),
            remove_dead_after: given.remove_dead_after.map(|s| s.0),
        };
        if timings.node_grace <= timings.heartbeat {
            problems.push(Problem::Order {
                shorter: "heartbeat",
                longer: "node_grace",
            });
        }
        if timings.node_lease <= timings.node_grace {
            problems.push(Problem::Order {
                shorter: "node_grace",
                longer: "node_lease",
            });
        }
        let limits = Limits::default();
        let limits = Limits {
            create_rate: given.create_rate.unwrap_or(limits.create_rate),
            create_burst: given.create_burst.unwrap_or(limits.create_burst),
        };
        if limits.create_burst == 0 {
            problems.push(Problem::Burst);
        }
        let endpoint = given.otlp_endpoint.filter(|text| !text.is_empty()).map(|text| {
            let read = text.parse();
            read.map_err(|why| Problem::OtlpEndpoint(text, why))
        });
        let otlp_endpoint = endpoint.transpose().unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        let config = Config {
            id: given.id.unwrap_or_default(),
            listen,
            peer_listen,
            advertise,
            advertise_peer,
            data_dir: given.data_dir.unwrap_or_default(),
            min_free_disk: given.min_free_disk.map_or(DEFAULT_MIN_FREE_DISK, |size| size.0),
            initial_cluster: given.initial_cluster.unwrap_or_default(),
            join: (!join.servers.is_empty()).then_some(join),
            tls: (!insecure).then(|| TlsFiles {
                dir: given.tls_dir.unwrap_or_default(),
                authority_key: given.ca_key.unwrap_or_default(),
            }),
            timings,
            scheduling: given.scheduling.unwrap_or_default(),
            limits,
            otlp_endpoint,
            level: Level::NEWEST,
        };
        problems.extend(config.cluster_problems());
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid(problems))
        }
    }
}

/// A token, or the file that holds it.
fn join_token(text: &str) -> Result<JoinToken, String> {
    let text = if text.contains('/') {
        folder::read_secret(Path::new(text)).map_err(|error| error.to_string())?
    } else {
        text.to_owned()
    };
    text.parse().map_err(|error: TokenError| error.to_string())
}

impl Config {
    /// What is wrong with the list of the first replicas; nothing where there is none.
    fn cluster_problems(&self) -> Vec<Problem> {
        let list = &self.initial_cluster;
        if list.is_empty() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        if self.join.is_some() {
            problems.push(Problem::JoinAndForm);
        }
        if !matches!(list.len(), 1 | 3 | 5) {
            problems.push(Problem::Size(list.len()));
        }
        let scheme = scheme(self.tls.is_none());
        for url in list.iter().flat_map(|peer| [&peer.peer_endpoint, &peer.endpoint]) {
            if !url.starts_with(scheme) {
                problems.push(Problem::Url {
                    key: "initial_cluster",
                    url: url.clone(),
                    scheme,
                });
            }
        }
        for (n, peer) in list.iter().enumerate() {
            if list[..n].iter().any(|before| before.id == peer.id) {
                problems.push(Problem::Twice(peer.id));
            }
        }
        let Some(own) = list.iter().find(|peer| peer.id == self.id) else {
            problems.push(Problem::Missing(self.id));
            return problems;
        };
        for (key, listed, own) in [
            ("advertise_peer", &own.peer_endpoint, &self.advertise_peer),
            ("advertise", &own.endpoint, &self.advertise),
        ] {
            if listed != own && !own.is_empty() {
                let (listed, own) = (listed.clone(), own.clone());
                problems.push(Problem::Differs {
                    id: self.id,
                    key,
                    listed,
                    own,
                });
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests;

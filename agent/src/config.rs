//! What an administrator sets: flags, `SBX_...` variables and a TOML file, merged in that order of precedence
//! over defaults, and checked once into [`Config`]. Owns names, defaults and their explanation; starts nothing
//! and looks at nothing but the machine's name. Called by `main`.

mod check;

use crate::runtime::image::{CollectPolicy, RegistryConfig};
use crate::runtime::user_namespace::{IDS, IdRange};
use clap::Args;
use identity::token::JoinToken;
use proto::id::NodeId;
use proto::spec::{Cidr, Labels, Runtime};
use proto::units::{Bytes, MilliCpu};
use serde::{Deserialize, Serialize};
use spans::Endpoint;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use check::Problem;

/// Within what systemd calls ids of containers, 524288 to 1879048191, and behind all that `/etc/subuid` hands out to
/// people on a machine with fewer than 4,000 of them, which begins at 100000.
const DEFAULT_USER_IDS: &str = "268435456:1610612736";

/// As many as people start at once where nobody has planned a burst.
const DEFAULT_NAMESPACES_AHEAD: u16 = 16;

/// Every key, each optional: as given on the command line, in the environment or in the file. The doc comments
/// are the text of `--help`. Values of a form of our own are texts until [`Settings::check`], which tells all that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[command(next_help_heading = "Settings (each is also a key of the TOML file)")]
pub struct Settings {
    /// The node's name, unique in the cluster [default: the machine's name]
    #[arg(long, env = "SBX_NODE_ID", value_name = "ID", global = true)]
    pub node_id: Option<String>,

    /// A replica of the control plane; give them all, so that one is found after a restart of any other. Repeat it,
    /// or separate with commas
    #[arg(
        long,
        env = "SBX_SERVER",
        value_name = "URL",
        value_delimiter = ',',
        global = true
    )]
    pub server: Option<Vec<String>>,

    /// The address that published ports are reached at [default: that which this machine uses towards the
    /// first server]
    #[arg(long, env = "SBX_ADVERTISE_IP", value_name = "IP", global = true)]
    pub advertise_ip: Option<IpAddr>,

    /// Where images, sandboxes and the ledger are kept [default: /var/lib/sbxlet]
    #[arg(long, env = "SBX_STATE_DIR", value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,

    /// The cgroup below which all sandboxes are [default: /sandboxd]
    #[arg(long, env = "SBX_CGROUP_PARENT", value_name = "PATH", global = true)]
    pub cgroup_parent: Option<PathBuf>,

    /// A mirror of a registry, asked before the registry itself: REGISTRY=URL, such as
    /// docker.io=http://10.0.0.1:5000. Repeat it, or separate with commas
    #[arg(
        long,
        env = "SBX_MIRROR",
        value_name = "MIRROR",
        value_delimiter = ',',
        global = true
    )]
    pub mirror: Option<Vec<String>>,

    /// How a registry or mirror is spoken to, where not with TLS that this machine trusts: REGISTRY=plain, REGISTRY=ca:FILE
    /// (a PEM file of authorities) or REGISTRY=unverified. Repeat it, or separate with commas
    #[arg(
        long,
        env = "SBX_REGISTRY",
        value_name = "HOW",
        value_delimiter = ',',
        global = true
    )]
    pub registry: Option<Vec<String>>,

    /// A file of credentials for registries, as docker login writes it; read anew for each pull
    #[arg(long, env = "SBX_DOCKER_CONFIG", value_name = "FILE", global = true)]
    pub docker_config: Option<PathBuf>,

    /// An image that is pulled ahead, when the agent starts, and never collected. Repeat it, or separate with commas
    #[arg(
        long,
        env = "SBX_PRE_PULL",
        value_name = "IMAGE",
        value_delimiter = ',',
        global = true
    )]
    pub pre_pull: Option<Vec<String>>,

    /// Images that no sandbox used for so long are removed [default: 7days]
    #[arg(long, env = "SBX_IMAGE_UNUSED_FOR", value_name = "TIME", global = true)]
    pub image_unused_for: Option<String>,

    /// How full the disk may get before unused images are removed, in per cent [default: 85]
    #[arg(long, env = "SBX_IMAGE_DISK_PERCENT", value_name = "N", global = true)]
    pub image_disk_percent: Option<u8>,

    /// A label of the node, for `node_selector`: KEY=VALUE. Repeat it, or separate with commas
    #[arg(
        long,
        env = "SBX_LABEL",
        value_name = "LABEL",
        value_delimiter = ',',
        global = true
    )]
    pub label: Option<Vec<String>>,

    /// Where this node's identity is: ca.crt, tls.crt and tls.key. Files that are exchanged are used without a restart
    /// [default: tls in --state-dir]
    #[arg(long, env = "SBX_TLS_DIR", value_name = "DIR", global = true)]
    pub tls_dir: Option<PathBuf>,

    /// Lets this node into the cluster where it has no certificate yet: what `sbxctl token create --join-node` has
    /// printed, or a file that holds it. Good for one node
    #[arg(long, env = "SBX_JOIN_TOKEN", value_name = "TOKEN|FILE", global = true)]
    pub join_token: Option<String>,

    /// Speak plain text to a control plane that asks nobody who he is. For tests, or for networks that only trusted
    /// machines reach
    #[arg(long, env = "SBX_INSECURE", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_name = "BOOL", global = true)]
    pub insecure: Option<bool>,

    /// What runs sandboxes that do not name a runtime: native, runc, crun or runsc [default: native]
    #[arg(long, env = "SBX_DEFAULT_RUNTIME", value_name = "RUNTIME", global = true)]
    pub default_runtime: Option<String>,

    /// How long a sandbox's containers may take to start, images present: after that it has failed [default: 2m]
    #[arg(long, env = "SBX_START_TIMEOUT", value_name = "TIME", global = true)]
    pub start_timeout: Option<String>,

    /// How gVisor intercepts system calls, for sandboxes on runsc: systrap, or kvm where /dev/kvm is there
    /// [default: systrap]
    #[arg(long, env = "SBX_GVISOR_PLATFORM", value_name = "PLATFORM", global = true)]
    pub gvisor_platform: Option<GvisorPlatform>,

    /// How much of the machine sandboxes may take, in per cent [default: 90]
    #[arg(long, env = "SBX_MAX_ALLOC_PERCENT", value_name = "N", global = true)]
    pub max_alloc_percent: Option<u8>,

    /// Cpu of this machine, as in manifests: 4, 2500m [default: what it has]
    #[arg(long, env = "SBX_CPU", value_name = "CPU", global = true)]
    pub cpu: Option<String>,

    /// Memory of this machine, as in manifests: 8Gi [default: what it has]
    #[arg(long, env = "SBX_MEMORY", value_name = "SIZE", global = true)]
    pub memory: Option<String>,

    /// Where sandboxes get their addresses from; private to this machine [default: 10.89.0.0/16]
    #[arg(long, env = "SBX_SANDBOX_CIDR", value_name = "CIDR", global = true)]
    pub sandbox_cidr: Option<String>,

    /// Whether sandboxes have user namespaces, in which root is nobody on this machine: auto is where the kernel and the
    /// file system allow it, required ends the agent where they don't [default: auto]
    #[arg(long, env = "SBX_USER_NAMESPACES", value_name = "WHEN", global = true)]
    pub user_namespaces: Option<UserNamespaces>,

    /// The ids of this machine that users in sandboxes have, 65536 for each sandbox: FIRST:COUNT. Nobody else may use
    /// them [default: 268435456:1610612736]
    #[arg(long, env = "SBX_USER_IDS", value_name = "IDS", global = true)]
    pub user_ids: Option<String>,

    /// How many sandboxes' namespaces are made ahead, while nothing else is to be done, so that they start sooner; each
    /// takes the kernel some 200 KiB. 0: none [default: 16]
    #[arg(long, env = "SBX_NAMESPACES_AHEAD", value_name = "N", global = true)]
    pub namespaces_ahead: Option<u16>,

    /// A name server for sandboxes [default: those of this machine that sandboxes can reach]. Repeat it, or
    /// separate with commas
    #[arg(
        long,
        env = "SBX_DNS",
        value_name = "IP",
        value_delimiter = ',',
        global = true
    )]
    pub dns: Option<Vec<IpAddr>>,

    /// Addresses that no sandbox ever reaches, whatever it is allowed: a CIDR. Those of the servers are, without
    /// being named. Repeat it, or separate with commas
    #[arg(
        long,
        env = "SBX_PROTECT",
        value_name = "CIDR",
        value_delimiter = ',',
        global = true
    )]
    pub protect: Option<Vec<String>>,

    /// Send spans of sandboxes on their way to Running to this collector, by OTLP over gRPC, such as
    /// http://127.0.0.1:4317 [default: that of OTEL_EXPORTER_OTLP_ENDPOINT, or none]
    #[arg(long, env = "SBX_OTLP_ENDPOINT", value_name = "URL", global = true)]
    pub otlp_endpoint: Option<String>,

    /// What to log: a level, or directives such as `info,agent=debug` [default: info]
    #[arg(long, env = "SBX_LOG", value_name = "FILTER", global = true)]
    pub log: Option<String>,

    /// How log lines on stderr look [default: human]
    #[arg(long, env = "SBX_LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub log_format: Option<LogFormat>,
}

/// How log lines on stderr look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a person, with colours on a terminal
    Human,
    /// One JSON object per line
    Json,
}

/// How gVisor intercepts the system calls of a sandbox's programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GvisorPlatform {
    /// By seccomp, on any machine
    #[default]
    Systrap,
    /// By the processor's virtualization, on bare metal
    Kvm,
}

impl std::fmt::Display for GvisorPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Systrap => "systrap",
            Self::Kvm => "kvm",
        })
    }
}

/// Whether sandboxes have user namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserNamespaces {
    /// Where this machine can give them
    #[default]
    Auto,
    /// Or else the agent does not start
    Required,
    /// Root in a container is root of this machine
    Off,
}

/// The settings in force, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub node_id: NodeId,
    /// `http://host:port` each; at least one.
    pub servers: Vec<String>,
    /// `None`: plain text was asked for.
    pub tls: Option<TlsSettings>,
    /// `None`: to be found out.
    pub advertise_ip: Option<IpAddr>,
    pub state_dir: PathBuf,
    /// Absolute.
    pub cgroup_parent: PathBuf,
    pub registries: RegistryConfig,
    pub images: CollectPolicy,
    pub labels: Labels,
    pub default_runtime: Runtime,
    /// At least a second.
    pub start_timeout: Duration,
    pub gvisor_platform: GvisorPlatform,
    /// 1..=100
    pub max_alloc_percent: u8,
    /// `None`: what the machine has.
    pub cpu: Option<MilliCpu>,
    pub memory: Option<Bytes>,
    pub sandbox_cidr: Subnet,
    pub user_namespaces: UserNamespaces,
    pub user_ids: IdBlock,
    pub namespaces_ahead: u16,
    /// Empty: those of the machine.
    pub dns: Vec<IpAddr>,
    pub protect: Vec<Cidr>,
    /// Where spans are sent to.
    pub otlp_endpoint: Option<Endpoint>,
}

/// Who this node is, and how it becomes that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    pub dir: PathBuf,
    /// Used where the folder holds no certificate yet.
    pub join: Option<JoinToken>,
}

/// An IPv4 block that sandboxes get their addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The bits behind the prefix are zero.
    pub address: Ipv4Addr,
    /// 8..=28
    pub prefix: u8,
}

/// Ids of the host that are given to sandboxes. At least one range of them, none of the host's own users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlock {
    pub first: u32,
    pub count: u32,
}

impl IdBlock {
    /// How many sandboxes they are enough for.
    #[must_use]
    pub fn ranges(self) -> u32 {
        self.count / IDS
    }

    /// The range with that number, from 0.
    #[must_use]
    pub fn range(self, number: u32) -> Option<IdRange> {
        let first = self.first.checked_add(number.checked_mul(IDS)?)?;
        IdRange::from(first).filter(|_| number < self.ranges())
    }

    /// The number of a range that is one of these.
    #[must_use]
    pub fn number_of(self, range: IdRange) -> Option<u32> {
        let number = range.root().checked_sub(self.first)? / IDS;
        (self.range(number) == Some(range)).then_some(number)
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
    #[error("cannot show the settings: {0}")]
    Print(#[from] toml::ser::Error),
    #[error("the settings cannot be used:\n{}", .0.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
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
            node_id: self.node_id.or(other.node_id),
            server: self.server.or(other.server),
            advertise_ip: self.advertise_ip.or(other.advertise_ip),
            state_dir: self.state_dir.or(other.state_dir),
            cgroup_parent: self.cgroup_parent.or(other.cgroup_parent),
            mirror: self.mirror.or(other.mirror),
            registry: self.registry.or(other.registry),
            docker_config: self.docker_config.or(other.docker_config),
            pre_pull: self.pre_pull.or(other.pre_pull),
            image_unused_for: self.image_unused_for.or(other.image_unused_for),
            image_disk_percent: self.image_disk_percent.or(other.image_disk_percent),
            label: self.label.or(other.label),
            insecure: self.insecure.or(other.insecure),
            tls_dir: self.tls_dir.or(other.tls_dir),
            join_token: self.join_token.or(other.join_token),
            default_runtime: self.default_runtime.or(other.default_runtime),
            start_timeout: self.start_timeout.or(other.start_timeout),
            gvisor_platform: self.gvisor_platform.or(other.gvisor_platform),
            max_alloc_percent: self.max_alloc_percent.or(other.max_alloc_percent),
            cpu: self.cpu.or(other.cpu),
            memory: self.memory.or(other.memory),
            sandbox_cidr: self.sandbox_cidr.or(other.sandbox_cidr),
            user_namespaces: self.user_namespaces.or(other.user_namespaces),
            user_ids: self.user_ids.or(other.user_ids),
            namespaces_ahead: self.namespaces_ahead.or(other.namespaces_ahead),
            dns: self.dns.or(other.dns),
            protect: self.protect.or(other.protect),
            otlp_endpoint: self.otlp_endpoint.or(other.otlp_endpoint),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
        }
    }

    /// These settings with the default of every key that has one.
    #[must_use]
    pub fn or_defaults(self) -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok());
        let state_dir = self.state_dir.clone();
        let state_dir = state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/sbxlet"));
        self.or(Self {
            node_id: host,
            server: Some(Vec::new()),
            advertise_ip: None,
            tls_dir: Some(state_dir.join("tls")),
            join_token: None,
            state_dir: Some(state_dir),
            cgroup_parent: Some(PathBuf::from("/sandboxd")),
            mirror: Some(Vec::new()),
            registry: Some(Vec::new()),
            docker_config: None,
            pre_pull: Some(Vec::new()),
            image_unused_for: Some("7days".to_owned()),
            image_disk_percent: Some(85),
            label: Some(Vec::new()),
            insecure: Some(false),
            default_runtime: Some(Runtime::Native.as_str().to_owned()),
            start_timeout: Some("2m".to_owned()),
            gvisor_platform: Some(GvisorPlatform::default()),
            max_alloc_percent: Some(90),
            cpu: None,
            memory: None,
            sandbox_cidr: Some("10.89.0.0/16".to_owned()),
            user_namespaces: Some(UserNamespaces::default()),
            user_ids: Some(DEFAULT_USER_IDS.to_owned()),
            namespaces_ahead: Some(DEFAULT_NAMESPACES_AHEAD),
            dns: Some(Vec::new()),
            protect: Some(Vec::new()),
            otlp_endpoint: None,
            log: Some("info".to_owned()),
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

    /// How images are pulled and collected, for commands that need no more. Settings with defaults, see
    /// [`Self::or_defaults`].
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all that is wrong with them.
    pub fn images(&self) -> Result<(RegistryConfig, CollectPolicy), ConfigError> {
        check::images(self).map_err(ConfigError::Invalid)
    }

    /// Checks the settings, with defaults where they say nothing.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all that is wrong, not just the first.
    pub fn check(self) -> Result<Config, ConfigError> {
        check::check(self.or_defaults()).map_err(ConfigError::Invalid)
    }
}

#[cfg(test)]
mod tests;

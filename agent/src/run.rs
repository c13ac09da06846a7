//! The agent as a whole: opens what a node has, finds what is on it, and follows the leader until it is told to
//! stop. Owns the order of these. Called by `main`; sandboxes go on when it ends.

use crate::address::Addresses;
use crate::blocking::blocking;
use crate::clock;
use crate::config::{Config, Subnet, UserNamespaces};
use crate::host::{Host, HostSettings};
use crate::lease::Lease;
use crate::ledger::{Ledger, LedgerError};
use crate::membership::{self, MembershipError};
use crate::node::{self, Meter, NodeError};
use crate::observe::ObserveError;
use crate::reconcile;
use crate::relay::Sandboxes;
use crate::report::Reports;
use crate::runtime::bundle::{CapabilityError, available_capabilities};
use crate::runtime::cgroup::{CgroupError, Cgroups};
use crate::runtime::image::{CollectPolicy, ImageError, ImageStore, RegistryConfig, SocketError};
use crate::runtime::monitor::Launch;
use crate::runtime::network::{Network, NetworkConfig, NetworkError};
use crate::runtime::process;
use crate::runtime::sys::heap;
use crate::runtime::user_namespace::{self, ProbeError};
use crate::sealed::SealedError;
use crate::session;
use crate::user_ids::UserIds;
use identity::dial::Dialer;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit};
use proto::spec::{Cidr, Runtime};
use proto::status::RuntimeInfo;
use spans::Exporter;
use std::fs::{DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Sandboxes' files are nobody's business but the agent's.
const PRIVATE: u32 = 0o700;
/// Of the state's folder.
const SANDBOXES: &str = "sandboxes";
/// Beside sandboxes, of which none is called so.
const PROBE: &str = "probe";
/// How long an agent that starts waits for a command that works on the images: taking in a large archive takes as long.
/// Who starts agents starts it again after that.
const IMAGES_TURN: Duration = Duration::from_secs(60);
const IMAGES_PAUSE: Duration = Duration::from_millis(500);

/// Why the agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("sbxlet makes namespaces, mounts and cgroups: run it as root")]
    NotRoot,
    #[error("cannot make {}: {source}", path.display())]
    StateDir { path: PathBuf, source: io::Error },
    #[error("another sbxlet uses {}; stop it, or give this one a --state-dir of its own", .0.display())]
    InUse(PathBuf),
    #[error("cannot tell which boot of this machine this is: {0}")]
    BootId(io::Error),
    #[error("the default runtime {runtime} is not on this node; it has {}", names(.found))]
    NoRuntime {
        runtime: &'static str,
        found: Vec<RuntimeInfo>,
    },
    #[error("cannot read the limit of open files: {0}")]
    OpenFiles(nix::Error),
    #[error("user_namespaces is `required`, and this node can't give sandboxes any: {0}")]
    UserNamespaces(Box<ProbeError>),
    #[error(transparent)]
    Membership(#[from] MembershipError),
    #[error(transparent)]
    Export(#[from] spans::StartError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Lease(#[from] SealedError),
    #[error(transparent)]
    Images(#[from] ImageError),
    #[error(transparent)]
    ImageSocket(#[from] SocketError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    #[error(transparent)]
    Capabilities(#[from] CapabilityError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

/// Where the images of a node are.
#[must_use]
pub fn images(state_dir: &Path) -> PathBuf {
    state_dir.join("images")
}

/// Opens the images of a node, also of one that no agent ever ran on. Blocks as [`ImageStore::open`] does.
///
/// # Errors
/// [`RunError::StateDir`], [`RunError::Images`].
pub fn open_images(
    state_dir: &Path,
    registries: RegistryConfig,
    policy: CollectPolicy,
) -> Result<ImageStore, RunError> {
    make_folder(state_dir)?;
    Ok(ImageStore::open_with(images(state_dir), registries, policy)?)
}

/// Opens the images, after `sbxlet image` where that has them: it is done soon, but for a long pull.
async fn open_images_in_turn(
    state_dir: PathBuf,
    registries: RegistryConfig,
    policy: CollectPolicy,
) -> Result<ImageStore, RunError> {
    let begun = Instant::now();
    loop {
        let (state_dir, registries, policy) = (state_dir.clone(), registries.clone(), policy.clone());
        match blocking(move || open_images(&state_dir, registries, policy)).await {
            Err(RunError::Images(ImageError::InUse { path })) if begun.elapsed() < IMAGES_TURN => {
                tracing::info!(path = %path.display(), "waiting for the images, which a command works on");
                tokio::time::sleep(IMAGES_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// Readies the process for an agent. Called before there are threads.
pub fn prepare_process() {
    heap::share_arenas();
}

/// Runs until `stop`.
///
/// # Errors
/// [`RunError`], where something that a node needs is not there.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(RunError::NotRoot);
    }
    let _lock = state_dir(&config.state_dir)?;
    let user_ids = user_ids(&config).await?;
    let boot_id = clock::boot_id().map_err(RunError::BootId)?;
    let runtimes = process::runtimes().await;
    check_runtime(config.default_runtime, &runtimes)?;
    let cgroups = Cgroups::detect()?;
    cgroups.prepare_parent(&config.cgroup_parent)?;
    let found = versions(&runtimes);
    let report = node::report(
        &config,
        node::Found {
            runtimes,
            cgroup_mode: cgroups.mode().to_string(),
            boot_id: boot_id.clone(),
            user_namespaces: user_ids.is_some(),
        },
    )?;
    let ledger = Arc::new(Ledger::open(&config.state_dir, &boot_id)?);
    let lease = Arc::new(Lease::open(&config.state_dir, &boot_id)?);
    let reports = Reports::default();
    let meter = Meter::new(cgroups.clone(), &config.cgroup_parent);
    let settings = host_settings(&config, boot_id)?;
    let credentials = match &config.tls {
        Some(settings) => {
            let entering = membership::enter(settings, &config.node_id, &config.servers);
            match stop.run_until_cancelled(entering).await {
                Some(entered) => Some(entered?),
                None => return Ok(()),
            }
        }
        None => {
            tracing::warn!("plain text to a control plane that asks nobody who he is: --insecure");
            None
        }
    };
    let dialer = credentials.clone().map_or_else(Dialer::plain, Dialer::following);
    let session_node = Arc::new(session::Node {
        id: config.node_id.clone(),
        dialer,
        labels: config.labels.clone(),
        report: (&report).into(),
        ledger: ledger.clone(),
        lease: lease.clone(),
        sandboxes: Sandboxes {
            reports: reports.clone(),
            folder: settings.sandboxes.clone(),
        },
        reports: reports.clone(),
        usage: Box::new(move || meter.read()),
        replicas: watch::Sender::default(),
    });
    let replicas = session_node.replicas.subscribe();
    tracing::info!(
        node = %config.node_id, ip = ?report.ip, cgroups = report.cgroup_mode, kernel = report.kernel,
        cpu = %report.capacity.cpu, memory = %report.capacity.memory, runtimes = found,
        user_namespaces = user_ids.is_some(), "starting"
    );
    let (state_dir, registries) = (config.state_dir.clone(), config.registries.clone());
    let policy = config.images.clone();
    let images = Box::pin(open_images_in_turn(state_dir, registries, policy)).await?;
    let network = Network::open(NetworkConfig {
        subnet: block(config.sandbox_cidr),
        protected: protected(&config, &[]).await,
    })
    .await?;
    let serving = Box::pin(images.listen()?.serve(stop.clone()));
    let store = images.clone();
    let protecting = protect(network.clone(), config.clone(), replicas);
    let guarded = network.clone();
    let guarding = guarded.guard();
    let addresses = Addresses::new(config.sandbox_cidr);
    let exporter = match &config.otlp_endpoint {
        Some(endpoint) => Exporter::start(endpoint, "sbxlet", config.node_id.to_string())?,
        None => Exporter::default(),
    };
    let host = Arc::new(Host::new(
        (images, network, cgroups, addresses, user_ids),
        reports,
        lease,
        exporter.clone(),
        settings,
    ));
    host.warm_up();
    let learned = session_node.replicas.subscribe();
    let given = config.servers.clone();
    let certified = async {
        if let Some(credentials) = credentials {
            membership::keep(credentials, given, learned).await;
        }
    };
    let (ready, found) = oneshot::channel();
    let reconciling = reconcile::run(host, ledger, ready, stop.clone());
    let speaking = async {
        // The first hello tells of everything that is here.
        if found.await.is_ok() {
            session::run(config.servers, session_node, stop.clone()).await;
        }
        stop.cancel();
    };
    let beside = async {
        futures::join!(
            protecting,
            guarding,
            store.keep_ahead(),
            store.keep_tidy(),
            certified
        )
    };
    let beside = Box::pin(stop.run_until_cancelled(beside));
    let serving = async {
        if let Err(error) = serving.await {
            tracing::error!(%error, "`sbxlet image` does not reach this agent until it is started anew");
        }
    };
    let (reconciled, (), _, ()) = futures::join!(reconciling, speaking, beside, serving);
    exporter.close().await;
    Ok(reconciled?)
}

/// Makes the folder, which one agent at a time may use.
fn state_dir(dir: &Path) -> Result<Flock<File>, RunError> {
    for folder in [SANDBOXES, "profiles"] {
        make_folder(&dir.join(folder))?;
    }
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|source| RunError::StateDir {
        path: path.clone(),
        source,
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| RunError::InUse(dir.to_owned()))
}

/// The user ids that sandboxes get. `None`: they have no user namespaces, by the settings, or for want of what that takes.
async fn user_ids(config: &Config) -> Result<Option<UserIds>, RunError> {
    let dir = config.state_dir.clone();
    let block = config.user_ids;
    let probe = move || {
        let ids = block.range(0).ok_or(ProbeError::NoIds)?;
        for folder in [dir.clone(), dir.join(SANDBOXES)] {
            user_namespace::let_pass(&folder)?;
        }
        user_namespace::probe(&dir.join(SANDBOXES).join(PROBE), &images(&dir), ids)
    };
    match config.user_namespaces {
        UserNamespaces::Off => {
            tracing::warn!("root in a container is root of this node: user_namespaces is `off`");
            return Ok(None);
        }
        UserNamespaces::Required => {
            let probed = blocking(probe).await;
            probed.map_err(|why| RunError::UserNamespaces(Box::new(why)))?;
        }
        UserNamespaces::Auto => {
            if let Err(why) = blocking(probe).await {
                tracing::warn!(
                    %why, "root in a container is root of this node: it can't give sandboxes user namespaces"
                );
                return Ok(None);
            }
        }
    }
    Ok(Some(UserIds::new(block)))
}

fn make_folder(path: &Path) -> Result<(), RunError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(PRIVATE);
    builder.create(path).map_err(|source| RunError::StateDir {
        path: path.to_owned(),
        source,
    })
}

fn check_runtime(runtime: Runtime, found: &[RuntimeInfo]) -> Result<(), RunError> {
    if found.iter().any(|info| info.runtime == runtime) {
        Ok(())
    } else {
        Err(RunError::NoRuntime {
            runtime: runtime.as_str(),
            found: found.to_vec(),
        })
    }
}

fn host_settings(config: &Config, boot_id: String) -> Result<HostSettings, RunError> {
    let (_, open_files) = getrlimit(Resource::RLIMIT_NOFILE).map_err(RunError::OpenFiles)?;
    Ok(HostSettings {
        sandboxes: config.state_dir.join(SANDBOXES),
        profiles: config.state_dir.join("profiles"),
        cgroup_parent: config.cgroup_parent.clone(),
        resolv_conf: node::resolv_conf(&config.dns),
        default_runtime: config.default_runtime,
        start_timeout: config.start_timeout,
        gvisor_platform: config.gvisor_platform,
        filters: Arc::default(),
        available: available_capabilities()?,
        apparmor: node::has_apparmor(),
        namespaces_ahead: config.namespaces_ahead.into(),
        open_files,
        boot_id,
        program: Launch::this_program(),
    })
}

/// Keeps sandboxes from replicas that joined later as well, as soon as a leader tells of them.
async fn protect(network: Network, config: Config, mut replicas: watch::Receiver<Vec<String>>) {
    while replicas.changed().await.is_ok() {
        let learned = replicas.borrow_and_update().clone();
        let protected = protected(&config, &learned).await;
        if let Err(error) = network.protect(&protected).await {
            tracing::error!(%error, "cannot keep sandboxes from replicas that were added");
        }
    }
}

/// What is closed to all sandboxes: what is configured, and the control plane without being named.
async fn protected(config: &Config, learned: &[String]) -> Vec<Cidr> {
    let mut protected = config.protect.clone();
    for server in config.servers.iter().chain(learned) {
        let name = server.clone();
        match blocking(move || node::resolve(&name)).await {
            Ok(addresses) => protected.extend(addresses.into_iter().map(|a| single(a.ip()))),
            Err(error) => tracing::warn!(
                server, %error, "cannot look this server up, so that sandboxes are not kept from its address"
            ),
        }
    }
    protected.sort_unstable();
    protected.dedup();
    protected
}

fn block(subnet: Subnet) -> Cidr {
    Cidr {
        address: subnet.address.into(),
        prefix: subnet.prefix,
    }
}

fn single(address: IpAddr) -> Cidr {
    Cidr {
        address,
        prefix: if address.is_ipv4() { 32 } else { 128 },
    }
}

/// `native 0.1.0, runc 1.1.5`
fn versions(found: &[RuntimeInfo]) -> String {
    let one = |info: &RuntimeInfo| format!("{} {}", info.runtime, info.version);
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn names(found: &[RuntimeInfo]) -> String {
    let names: Vec<&str> = found.iter().map(|info| info.runtime.as_str()).collect();
    names.join(", ")
}

//! The means of a node that all its sandboxes share, and the bounds on how many use them at once. Owns nothing
//! of a single sandbox. Made by `main`, used by `observe`, `execute` and `reconcile`.

use crate::address::Addresses;
use crate::config::GvisorPlatform;
use crate::lease::Lease;
use crate::report::Reports;
use crate::runtime::cgroup::Cgroups;
use crate::runtime::image::ImageStore;
use crate::runtime::monitor::Nursery;
use crate::runtime::namespace::Namespaces;
use crate::runtime::network::Network;
use crate::runtime::seccomp::Filters;
use crate::runtime::user_namespace::{IdRange, takes_user_namespace};
use crate::stock::Stock;
use crate::user_ids::{Exhausted, UserIds};
use oci_spec::runtime::Capabilities;
use proto::id::Uid;
use proto::spec::{Runtime, SandboxSpec};
use spans::Exporter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Sandboxes whose files are made or whose processes are started at the same time. Mounting and cgroups contend on
/// kernel locks: with more, each takes longer and none is ready sooner.
const STARTS_AT_ONCE: usize = 8;
/// Sandboxes that are taken down at the same time, for the same reason.
const ENDS_AT_ONCE: usize = 8;

pub struct Host {
    pub images: ImageStore,
    pub network: Network,
    pub cgroups: Cgroups,
    pub addresses: Addresses,
    /// `None`: no sandbox that is made has a user namespace.
    pub user_ids: Option<UserIds>,
    /// Of the kind that sandboxes of the default runtime have.
    pub(crate) stock: Stock,
    pub reports: Reports,
    pub lease: Arc<Lease>,
    pub exporter: Exporter,
    pub settings: HostSettings,
    pub(crate) starts: Semaphore,
    pub(crate) ends: Semaphore,
    pub(crate) nursery: Arc<Nursery>,
    is_priming: Arc<AtomicBool>,
}

/// What is the same for all sandboxes of a node.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Where the folders of sandboxes are.
    pub sandboxes: PathBuf,
    /// Where seccomp profiles of `localhost/<name>` are.
    pub profiles: PathBuf,
    /// Below which the cgroups of sandboxes are.
    pub cgroup_parent: PathBuf,
    /// The text of that file in every container.
    pub resolv_conf: String,
    pub default_runtime: Runtime,
    /// From the start of a sandbox's monitor to that of all its containers.
    pub start_timeout: Duration,
    pub gvisor_platform: GvisorPlatform,
    /// Filters of system calls, made once for all containers.
    pub filters: Arc<Filters>,
    /// What a container can be given at most.
    pub available: Capabilities,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// Namespaces that are made ahead.
    pub namespaces_ahead: usize,
    /// The agent's own hard limit.
    pub open_files: u64,
    pub boot_id: String,
    /// The program that is run as `nursery` and `copy`.
    pub program: PathBuf,
}

impl Host {
    #[must_use]
    pub fn new(
        means: (ImageStore, Network, Cgroups, Addresses, Option<UserIds>),
        reports: Reports,
        lease: Arc<Lease>,
        exporter: Exporter,
        settings: HostSettings,
    ) -> Self {
        let (images, network, cgroups, addresses, user_ids) = means;
        Self {
            images,
            network,
            cgroups,
            addresses,
            user_ids,
            stock: Stock::of(settings.namespaces_ahead),
            reports,
            lease,
            exporter,
            nursery: Arc::new(Nursery::of(settings.program.clone())),
            settings,
            starts: Semaphore::new(STARTS_AT_ONCE),
            ends: Semaphore::new(ENDS_AT_ONCE),
            is_priming: Arc::default(),
        }
    }

    /// Readies what the first sandbox would have to wait for. Returns at once.
    pub(crate) fn warm_up(&self) {
        let nursery = self.nursery.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = nursery.warm_up() {
                tracing::warn!(%error, "sandboxes that are made can't be watched at present");
            }
        });
    }

    /// Takes a wait of the kernel off the start of a sandbox that is some milliseconds ahead; see
    /// [`Cgroups::prime`]. Returns at once. Nobody waits where no process is moved as a whole: there it would only keep
    /// all others from forking.
    pub(crate) fn prime(&self, spec: &SandboxSpec) {
        let runtime = spec.runtime.unwrap_or(self.settings.default_runtime);
        let moves = runtime != Runtime::Native || self.cgroups.joining_waits();
        if !moves || self.is_priming.swap(true, Ordering::Relaxed) {
            return;
        }
        let (cgroups, is_priming) = (self.cgroups.clone(), self.is_priming.clone());
        tokio::task::spawn_blocking(move || {
            cgroups.prime();
            is_priming.store(false, Ordering::Relaxed);
        });
    }

    /// Ids for a sandbox of its own, where it is to have a user namespace.
    ///
    /// # Errors
    /// [`Exhausted`]
    pub(crate) fn take_user_ids(&self, runtime: Runtime) -> Result<Option<IdRange>, Exhausted> {
        self.user_ids_of(runtime).map(UserIds::take).transpose()
    }

    /// Namespaces that were made ahead, with their ids, where there are such as the runtime takes.
    pub(crate) fn take_namespaces(&self, runtime: Runtime) -> Option<Namespaces> {
        let is_of_default =
            self.user_ids_of(runtime).is_some() == self.user_ids_of(self.settings.default_runtime).is_some();
        is_of_default.then(|| self.stock.take())?
    }

    /// Keeps namespaces ready for the next sandboxes. Never returns.
    pub(crate) async fn keep_stocked(&self) {
        self.stock
            .keep_filled(self.user_ids_of(self.settings.default_runtime))
            .await;
    }

    fn user_ids_of(&self, runtime: Runtime) -> Option<&UserIds> {
        self.user_ids.as_ref().filter(|_| takes_user_namespace(runtime))
    }

    /// The cgroup of a sandbox.
    #[must_use]
    pub fn cgroup(&self, uid: Uid) -> PathBuf {
        self.settings.cgroup_parent.join(uid.to_string())
    }

    /// The folder of a sandbox.
    #[must_use]
    pub fn folder(&self, uid: Uid) -> PathBuf {
        crate::record::folder(&self.settings.sandboxes, uid)
    }
}

/// Where a sandbox's namespaces are pinned.
#[must_use]
pub(crate) fn pins(dir: &Path) -> PathBuf {
    dir.join("ns")
}

/// Where a sandbox's monitor keeps what it knows.
#[must_use]
pub(crate) fn monitor(dir: &Path) -> PathBuf {
    dir.join("monitor")
}

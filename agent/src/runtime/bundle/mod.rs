//! Renders what an OCI runtime is told about one container. Pure: the same input gives the same spec, and
//! nothing is read or made; all that depends on the node comes in with [`BundleInput`].
//!
//! | file | owns |
//! |---|---|
//! | `process` | program, environment, user, limits of a process |
//! | `capability` | which capabilities it holds |
//! | `mounts` | what it sees where |
//! | `resources` | what its cgroup allows |
//! | `instance` | what all containers of a sandbox run in, with a runtime that has its own kernel |
//!
//! The step that makes a container calls [`render`] once its root filesystem is mounted.

mod capability;
mod instance;
mod mounts;
mod process;
mod resources;

#[cfg(test)]
pub(crate) use capability::every_capability;
pub use capability::{CapabilityError, available_capabilities};
pub use instance::{InstanceInput, instance_pids, render_instance};
pub use mounts::{tmpfs_is_open, tmpfs_mode};
pub use process::OPEN_FILES;
pub use resources::{CpuQuota, cpu_quota};

use super::image::ImageConfig;
use super::seccomp;
use super::user::User;
use super::user_namespace::{IDS, UserNamespace};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, LinuxSeccomp, RootBuilder, Spec, SpecBuilder,
};
use proto::budget::ContainerBudget;
use proto::id::Name;
use proto::spec::{Container, Profile, SecurityOpt};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The version of the specification that all runtimes in use understand.
const SPEC_VERSION: &str = "1.0.2";

/// Shown to nobody in a container, as Docker does: some tell about the node, some change it.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Of the sandbox's own network: a user without privileges may listen on port 80 and ping, as with Docker.
const SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// All that a container's spec follows from.
#[derive(Debug, Clone)]
pub struct BundleInput<'a> {
    pub container: &'a Container,
    pub image: &'a ImageConfig,
    pub user: &'a User,
    pub budget: &'a ContainerBudget,
    /// Of the sandbox; all its containers have the same.
    pub hostname: &'a str,
    pub namespaces: Namespaces<'a>,
    pub cgroup: Cgroup<'a>,
    /// Where the runtime has its own kernel.
    pub instance: Option<Membership<'a>>,
    pub sources: Sources<'a>,
    /// The profile of `seccomp=localhost/<name>`, from [`seccomp::load`].
    pub local_seccomp: Option<&'a LinuxSeccomp>,
    /// What this node can give, from [`available_capabilities`].
    pub available: &'a Capabilities,
    /// The node's kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// The agent's own hard limit of open files; a container can't have more.
    pub open_files: u64,
    /// The runtime can set limits of processes; else they have those of the monitor.
    pub sets_limits: bool,
}

/// The sandbox's pinned namespaces, which its containers share.
#[derive(Debug, Clone, Copy)]
pub struct Namespaces<'a> {
    pub net: &'a Path,
    pub uts: &'a Path,
    pub ipc: &'a Path,
    /// That the others belong to. `None`: ids inside are the host's.
    pub user: Option<&'a UserNamespace>,
}

/// A container's part in the instance of a kernel that its sandbox has for itself; see [`render_instance`].
#[derive(Debug, Clone, Copy)]
pub struct Membership<'a> {
    /// The container that holds the instance.
    pub holder: &'a str,
    /// How many containers there are beside the holder.
    pub containers: usize,
}

/// Where the container is accounted, and what this node's cgroups can do.
#[derive(Debug, Clone, Copy)]
pub struct Cgroup<'a> {
    /// Absolute, such as `/sandboxd/<uid>/<container>`.
    pub path: &'a Path,
    /// Give it a cgroup namespace of its own.
    pub namespace: bool,
    /// Swap is accounted, so that it can be limited.
    pub swap: bool,
    /// The runtime limits the cpu; else that is left to the monitor.
    pub quota: bool,
}

/// What on the host becomes what in the container. All exist.
#[derive(Debug, Clone)]
pub struct Sources<'a> {
    pub rootfs: &'a Path,
    /// For `/tmp`.
    pub tmp: &'a Path,
    /// For `/dev/shm`: a directory in the `/tmp` budget, mode 1777, so that its pages are counted.
    pub shm: &'a Path,
    /// One per `tmpfs` of the container, in their order: a tmpfs of its own, or a directory in the `/tmp` budget.
    pub tmpfs: &'a [PathBuf],
    /// One per volume of the sandbox.
    pub volumes: &'a BTreeMap<Name, PathBuf>,
    pub hosts: &'a Path,
    pub host_name: &'a Path,
    pub resolv_conf: &'a Path,
}

/// Why there is no spec.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error(
        "container {container}: nothing to run: neither it has `args` nor its image an entrypoint or command"
    )]
    NoCommand { container: Name },
    #[error("container {container}: {what} contains a NUL byte")]
    Nul { container: Name, what: &'static str },
    #[error("container {container}: `{capability}` is no capability of Linux")]
    UnknownCapability { container: Name, capability: String },
    #[error(
        "container {container}: this node cannot give the capability {capability}, which its agent does not have"
    )]
    NoCapability { container: Name, capability: String },
    #[error("container {container}: there is no volume {volume} to mount at {path}")]
    NoVolume {
        container: Name,
        volume: Name,
        path: String,
    },
    #[error("container {container}: no folder was made for its tmpfs at {path}")]
    NoTmpfs { container: Name, path: String },
    #[error("container {container}: the seccomp profile {profile} was not loaded")]
    NoSeccomp { container: Name, profile: Name },
    #[error(
        "container {container}: this node has no AppArmor, so that nothing would enforce the profile {profile}"
    )]
    NoApparmor { container: Name, profile: Name },
    #[error("container {container}: cannot assemble its spec: {source}")]
    Spec { container: Name, source: OciSpecError },
}

/// Renders the spec.
///
/// # Errors
/// [`BundleError`] where the container asks for what the image or this node does not have.
pub fn render(input: &BundleInput<'_>) -> Result<Spec, BundleError> {
    let capabilities = capability::of(input)?;
    let process = process::render(input, &capabilities)?;
    let mounts = mounts::render(input)?;
    let linux = linux(input, &capabilities)?;
    let root = RootBuilder::default()
        .path(input.sources.rootfs)
        .readonly(input.container.read_only);
    root.build()
        .and_then(|root| {
            SpecBuilder::default()
                .version(SPEC_VERSION)
                .root(root)
                .hostname(input.hostname)
                .process(process)
                .mounts(mounts)
                .linux(linux)
                .build()
        })
        .map(|mut spec| {
            if let Some(membership) = input.instance {
                spec.set_annotations(Some(instance::annotations_of_member(membership.holder)));
            }
            spec
        })
        .map_err(assemble(input))
}

fn assemble<'a>(input: &BundleInput<'a>) -> impl FnOnce(OciSpecError) -> BundleError + use<'a> {
    let container = input.container;
    move |source| BundleError::Spec {
        container: container.name.clone(),
        source,
    }
}

fn linux(input: &BundleInput<'_>, capabilities: &Capabilities) -> Result<Linux, BundleError> {
    let texts = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect());
    // Who made a user namespace has set them, too, since the ids in them are others inside.
    let sysctls: Option<HashMap<String, String>> = input.namespaces.user.is_none().then(|| {
        let sysctls = SYSCTLS.iter();
        sysctls
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    });
    let mappings = id_mappings(input)?;
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(input)?))
        .set_resources(Some(resources::render(input)?))
        .set_seccomp(seccomp_of(input, capabilities)?)
        .set_sysctl(sysctls)
        .set_masked_paths(texts(&MASKED_PATHS))
        .set_readonly_paths(texts(&READONLY_PATHS))
        .set_devices(None)
        .set_uid_mappings(mappings.clone())
        .set_gid_mappings(mappings);
    // The limits of an instance's containers are those of the instance.
    let own_cgroup = input.instance.is_none().then(|| input.cgroup.path.to_owned());
    linux.set_cgroups_path(own_cgroup);
    Ok(linux)
}

/// For users and groups alike.
fn id_mappings(input: &BundleInput<'_>) -> Result<Option<Vec<LinuxIdMapping>>, BundleError> {
    let Some(user) = input.namespaces.user else {
        return Ok(None);
    };
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(user.ids.root())
        .size(IDS)
        .build();
    Ok(Some(vec![mapping.map_err(assemble(input))?]))
}

fn namespaces(input: &BundleInput<'_>) -> Result<Vec<LinuxNamespace>, BundleError> {
    let own = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let shared = |kind, path: &Path| LinuxNamespaceBuilder::default().typ(kind).path(path).build();
    let pins = input.namespaces;
    let mut all = vec![
        own(LinuxNamespaceType::Pid),
        own(LinuxNamespaceType::Mount),
        shared(LinuxNamespaceType::Network, pins.net),
        shared(LinuxNamespaceType::Uts, pins.uts),
        shared(LinuxNamespaceType::Ipc, pins.ipc),
    ];
    if let Some(user) = pins.user {
        all.push(shared(LinuxNamespaceType::User, &user.path));
    }
    if input.cgroup.namespace {
        all.push(own(LinuxNamespaceType::Cgroup));
    }
    all.into_iter().collect::<Result<_, _>>().map_err(assemble(input))
}

/// The last option of its kind counts.
fn seccomp_of(
    input: &BundleInput<'_>,
    capabilities: &Capabilities,
) -> Result<Option<LinuxSeccomp>, BundleError> {
    let chosen = input
        .container
        .security_opt
        .iter()
        .rev()
        .find_map(|option| match option {
            SecurityOpt::Seccomp(profile) => Some(profile),
            SecurityOpt::NoNewPrivileges(_) | SecurityOpt::Apparmor(_) => None,
        });
    match chosen {
        None | Some(Profile::RuntimeDefault) => seccomp::default_profile(capabilities)
            .map(Some)
            .map_err(assemble(input)),
        Some(Profile::Unconfined) => Ok(None),
        Some(Profile::Localhost(profile)) => match input.local_seccomp {
            Some(loaded) => Ok(Some(loaded.clone())),
            None => Err(BundleError::NoSeccomp {
                container: input.container.name.clone(),
                profile: profile.clone(),
            }),
        },
    }
}

#[cfg(test)]
mod tests;

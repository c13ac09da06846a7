//! What of a sandbox is made where blocking is allowed: files and mounts, the cgroup, and the OCI spec of each
//! container. Gives the monitor's specification, which refers to all of it.

use super::Failure;
use crate::host::{self, HostSettings};
use crate::runtime::bundle::{
    self, BundleInput, Cgroup, InstanceInput, Membership, Namespaces, Sources, instance_pids,
};
use crate::runtime::cgroup::{Cgroups, SandboxLimits, of_container, of_instance};
use crate::runtime::files::{self, ContainerFiles, SandboxFiles};
use crate::runtime::image::Image;
use crate::runtime::namespace::Pins;
use crate::runtime::process;
use crate::runtime::user_namespace::{IdRange, UserNamespace, root_of};
use crate::runtime::{seccomp, user};
use oci_spec::runtime::LinuxSeccomp;
use proto::budget;
use proto::id::Uid;
use proto::spec::{Container, Profile, Runtime, SandboxSpec, SecurityOpt};
use proto::wire;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Processes of one container; the monitor has one.
const PIDS_PER_CONTAINER: u64 = 1_024;
/// The runtime's own processes while it starts containers, and the monitor.
const PIDS_OVERHEAD: u64 = 64;
/// The monitor and, while it starts a container, the runtime; they are in the sandbox's cgroup, not in a container's.
const MONITOR_MEMORY: u64 = 32 << 20;
/// From SIGTERM to SIGKILL. Short, since sandboxes are disposable, and within the margin of any lease that makes sense.
pub(super) const GRACE: Duration = Duration::from_millis(500);

pub(super) struct Input {
    pub(super) settings: HostSettings,
    pub(super) cgroups: Cgroups,
    pub(super) cgroup: PathBuf,
    pub(super) uid: Uid,
    pub(super) dir: PathBuf,
    pub(super) hostname: String,
    pub(super) ip: Ipv4Addr,
    /// Of its user namespace, which is pinned already.
    pub(super) user_ids: Option<IdRange>,
    /// One per container, in their order.
    pub(super) images: Vec<Arc<Image>>,
    pub(super) spec: Arc<SandboxSpec>,
}

pub(super) struct Prepared {
    pub(super) monitor: wire::MonitorSpec,
    /// When each stage of it began and ended.
    pub(super) stages: [(&'static str, Instant, Instant); 3],
}

/// Makes all of it.
pub(super) fn prepare(input: &Input) -> Result<Prepared, Failure> {
    let begun = Instant::now();
    let spec = &*input.spec;
    let etc = files::Etc {
        hostname: &input.hostname,
        ip: input.ip,
        resolv_conf: &input.settings.resolv_conf,
    };
    let shared = files::prepare_sandbox(&input.dir, spec, etc, user_namespace(input))?;
    let mut own = Vec::new();
    for (container, image) in spec.containers.iter().zip(&input.images) {
        own.push(files::prepare_container(&shared, spec, container, &image.layers)?);
    }
    let files_done = Instant::now();
    let runtime = spec.runtime.unwrap_or(input.settings.default_runtime);
    input.cgroups.create(&input.cgroup, &limits(spec, runtime))?;
    let cgroup_done = Instant::now();
    let instance = match runtime {
        Runtime::Runsc => Some(render_instance(input, &shared)?),
        Runtime::Native | Runtime::Runc | Runtime::Crun => None,
    };
    let mut containers = Vec::new();
    for ((container, image), own) in spec.containers.iter().zip(&input.images).zip(&own) {
        containers.push(render(input, container, image, &shared, own, instance.is_some())?);
    }
    Ok(Prepared {
        monitor: wire::MonitorSpec {
            uid: input.uid.0,
            cgroup: text(&input.cgroup),
            runtime: wire::Runtime::from(runtime).into(),
            containers,
            // Known when it is started.
            expires_at_boot_ms: 0,
            grace_ms: crate::clock::millis(GRACE),
            instance,
            root_id: root_of(shared.user_namespace.as_ref()),
        },
        stages: [
            ("files", begun, files_done),
            ("cgroup", files_done, cgroup_done),
            ("bundle", cgroup_done, Instant::now()),
        ],
    })
}

/// The sandbox's own limits: its containers' together, and room for the monitor.
fn limits(spec: &SandboxSpec, runtime: Runtime) -> SandboxLimits {
    let mut memory = budget::demand_on(spec, Some(runtime)).memory;
    memory.0 = memory.0.saturating_add(MONITOR_MEMORY);
    let pids = match runtime {
        Runtime::Runsc => instance_pids(spec.containers.len()),
        Runtime::Native | Runtime::Runc | Runtime::Crun => spec.containers.len() as u64 * PIDS_PER_CONTAINER,
    };
    SandboxLimits {
        memory,
        pids: pids + PIDS_OVERHEAD,
    }
}

/// Makes what the containers run in, for a runtime with a kernel of its own, and writes its OCI spec.
fn render_instance(input: &Input, shared: &SandboxFiles) -> Result<wire::MonitoredInstance, Failure> {
    let own = files::prepare_instance(shared)?;
    let pins = Pins::below(&host::pins(&input.dir));
    let spec = bundle::render_instance(&InstanceInput {
        spec: &input.spec,
        hostname: &input.hostname,
        namespaces: namespaces(&pins, None),
        cgroup: Cgroup {
            path: &of_instance(&input.cgroup),
            namespace: true,
            swap: input.cgroups.swap_accounted(),
            quota: true,
        },
        rootfs: &own.rootfs,
        program: files::IDLE,
    });
    let path = own.bundle.join("config.json");
    spec.and_then(|spec| spec.save(&path))
        .map_err(|source| Failure::SaveSpec { path, source })?;
    Ok(wire::MonitoredInstance {
        bundle: text(&own.bundle),
        platform: input.settings.gvisor_platform.to_string(),
    })
}

fn namespaces<'a>(pins: &'a Pins, user: Option<&'a UserNamespace>) -> Namespaces<'a> {
    Namespaces {
        net: &pins.net,
        uts: &pins.uts,
        ipc: &pins.ipc,
        user,
    }
}

fn user_namespace(input: &Input) -> Option<UserNamespace> {
    let path = Pins::below(&host::pins(&input.dir)).user;
    input.user_ids.map(|ids| UserNamespace { path, ids })
}

/// Writes the OCI spec of one container.
fn render(
    input: &Input,
    container: &Container,
    image: &Image,
    shared: &SandboxFiles,
    own: &ContainerFiles,
    in_instance: bool,
) -> Result<wire::MonitoredContainer, Failure> {
    let user = user::resolve(&own.rootfs, &image.config.user).map_err(|source| Failure::User {
        container: container.name.clone(),
        source,
    })?;
    let local_seccomp = local_seccomp(&input.settings.profiles, container)?;
    let cgroup = if in_instance {
        of_instance(&input.cgroup)
    } else {
        of_container(&input.cgroup, &container.name)
    };
    let membership = Membership {
        holder: process::INSTANCE,
        containers: input.spec.containers.len(),
    };
    let pins = Pins::below(&host::pins(&input.dir));
    // What the built-in runtime does within the container's cgroup takes some milliseconds of cpu time, for which a
    // container of a hundredth of a processor would wait for many periods.
    let runtime = input.spec.runtime.unwrap_or(input.settings.default_runtime);
    let cpu = (runtime == Runtime::Native).then(|| bundle::cpu_quota(container.resource.cpu));
    let spec = bundle::render(&BundleInput {
        container,
        image: &image.config,
        user: &user,
        budget: &budget::container(&input.spec, container),
        hostname: &input.hostname,
        namespaces: namespaces(&pins, shared.user_namespace.as_ref()),
        cgroup: Cgroup {
            path: &cgroup,
            namespace: true,
            swap: input.cgroups.swap_accounted(),
            quota: cpu.is_none(),
        },
        instance: in_instance.then_some(membership),
        sources: Sources {
            rootfs: &own.rootfs,
            tmp: &own.tmp,
            shm: &own.shm,
            tmpfs: &own.tmpfs,
            volumes: &shared.volumes,
            hosts: &shared.hosts,
            host_name: &shared.host_name,
            resolv_conf: &shared.resolv_conf,
        },
        local_seccomp: local_seccomp.as_ref(),
        available: &input.settings.available,
        apparmor: input.settings.apparmor,
        open_files: input.settings.open_files,
        sets_limits: process::sets_limits(
            runtime,
            &input.settings.available,
            shared.user_namespace.is_some(),
        ),
    })?;
    let path = own.bundle.join("config.json");
    spec.save(&path)
        .map_err(|source| Failure::SaveSpec { path, source })?;
    if runtime == Runtime::Native {
        let written = input.settings.filters.write(&spec, &own.bundle);
        written.map_err(|source| Failure::Filter {
            container: container.name.clone(),
            source: Box::new(source),
        })?;
    }
    Ok(wire::MonitoredContainer {
        name: container.name.to_string(),
        bundle: text(&own.bundle),
        cgroup: text(&cgroup),
        logs: text(&own.logs),
        cpu_quota_us: cpu.map_or(0, |cpu| cpu.quota_us),
        cpu_period_us: cpu.map_or(0, |cpu| cpu.period_us),
    })
}

/// The profile of the last `seccomp=localhost/<name>`, which is the one that counts.
fn local_seccomp(profiles: &Path, container: &Container) -> Result<Option<LinuxSeccomp>, Failure> {
    let mut last_first = container.security_opt.iter().rev();
    let chosen = last_first.find_map(|option| match option {
        SecurityOpt::Seccomp(profile) => Some(profile),
        SecurityOpt::NoNewPrivileges(_) | SecurityOpt::Apparmor(_) => None,
    });
    match chosen {
        Some(Profile::Localhost(name)) => {
            let loaded = seccomp::load(profiles, name).map_err(|source| Failure::Seccomp {
                container: container.name.clone(),
                source: Box::new(source),
            })?;
            Ok(Some(loaded))
        }
        Some(Profile::RuntimeDefault | Profile::Unconfined) | None => Ok(None),
    }
}

/// The agent's own folders are text: they begin with a configured path, which is.
fn text(path: &Path) -> String {
    path.display().to_string()
}

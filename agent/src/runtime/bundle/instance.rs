//! What all containers of a sandbox run in, where the runtime has a kernel of its own, as gVisor does: a container
//! beside them that does nothing, and which the host limits for them all.
//!
//! The host sees one process with the memory of every container in it, so that there is one limit: the sum of
//! what the containers may have, and of every tmpfs once, for ENOSPC to come first.

use super::{Cgroup, Namespaces, SPEC_VERSION, resources};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Linux, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResourcesBuilder, ProcessBuilder, RootBuilder,
    Spec, SpecBuilder,
};
use proto::budget;
use proto::spec::{Runtime, SandboxSpec};
use std::collections::HashMap;
use std::path::Path;

/// By these a runtime knows which container holds an instance and which ones are in it; containerd's names.
const KIND: &str = "io.kubernetes.cri.container-type";
const HOLDER: &str = "io.kubernetes.cri.sandbox-id";
/// Of the host, for one of the instance: measured are two, and as many again are in reserve.
const HOST_TASKS_PER_PROCESS: u64 = 4;
/// Threads of the kernel, and its file servers.
const HOST_TASKS: u64 = 512;

/// All that the spec of an instance follows from.
#[derive(Debug, Clone)]
pub struct InstanceInput<'a> {
    pub spec: &'a SandboxSpec,
    pub hostname: &'a str,
    pub namespaces: Namespaces<'a>,
    pub cgroup: Cgroup<'a>,
    pub rootfs: &'a Path,
    /// In there; never ends by itself.
    pub program: &'a str,
}

/// How many tasks an instance of so many containers may be for the host.
#[must_use]
pub fn instance_pids(containers: usize) -> u64 {
    HOST_TASKS + containers as u64 * resources::PIDS * HOST_TASKS_PER_PROCESS
}

/// Renders the spec of the container that holds the instance.
///
/// # Errors
/// [`OciSpecError`]; never for what can be in a sandbox.
pub fn render_instance(input: &InstanceInput<'_>) -> Result<Spec, OciSpecError> {
    let demand = budget::demand_on(input.spec, Some(Runtime::Runsc));
    let limits = LinuxResourcesBuilder::default()
        .memory(resources::memory(demand.memory, input.cgroup.swap)?)
        .cpu(resources::cpu(demand.cpu, true)?)
        .pids(resources::pids(instance_pids(input.spec.containers.len()))?)
        .build()?;
    let own = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let shared = |kind, path: &Path| LinuxNamespaceBuilder::default().typ(kind).path(path).build();
    let pins = input.namespaces;
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(vec![
            own(LinuxNamespaceType::Pid)?,
            own(LinuxNamespaceType::Mount)?,
            shared(LinuxNamespaceType::Network, pins.net)?,
            shared(LinuxNamespaceType::Uts, pins.uts)?,
            shared(LinuxNamespaceType::Ipc, pins.ipc)?,
        ]))
        .set_cgroups_path(Some(input.cgroup.path.to_owned()))
        .set_resources(Some(limits))
        .set_devices(None)
        .set_masked_paths(None)
        .set_readonly_paths(None);
    let process = ProcessBuilder::default()
        .terminal(false)
        .args(vec![input.program.to_owned()])
        .env(Vec::new())
        .cwd("/")
        .no_new_privileges(true)
        .build()?;
    let root = RootBuilder::default().path(input.rootfs).readonly(true).build()?;
    SpecBuilder::default()
        .version(SPEC_VERSION)
        .root(root)
        .hostname(input.hostname)
        .process(process)
        .mounts(Vec::new())
        .annotations(HashMap::from([(KIND.to_owned(), "sandbox".to_owned())]))
        .linux(linux)
        .build()
}

pub(super) fn annotations_of_member(holder: &str) -> HashMap<String, String> {
    HashMap::from([
        (KIND.to_owned(), "container".to_owned()),
        (HOLDER.to_owned(), holder.to_owned()),
    ])
}

//! What the built-in runtime does for a bundle: its OCI spec, as the steps' own types. Pure. What a spec asks for and
//! is not known here is refused, never left out: a container must not run with less than it was given.
//!
//! Not for any bundle there is, but for those of `runtime::bundle`.

use super::process::{ProcessPlan, number};
use crate::runtime::cgroup::{ContainerLimits, CpuShare, DeviceRule};
use crate::runtime::sys::tree::Restrictions;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use oci_spec::runtime::{
    Linux, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, LinuxResources, LinuxSeccompFilterFlag,
    Mount, Spec,
};
use proto::units::Bytes;
use std::path::{Path, PathBuf};

/// All of it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) root: PathBuf,
    pub(super) is_read_only: bool,
    /// In their order.
    pub(super) mounts: Vec<PlannedMount>,
    pub(super) masked: Vec<PathBuf>,
    pub(super) read_only: Vec<PathBuf>,
    /// Joined, in their order.
    pub(super) joined: Vec<(CloneFlags, PathBuf)>,
    /// A cgroup namespace of its own, beside that of processes and that of mounts.
    pub(super) own_cgroup_namespace: bool,
    pub(super) user: Option<UserNamespace>,
    pub(super) cgroup: PathBuf,
    pub(super) limits: ContainerLimits,
    /// Such as `net.ipv4.ip_forward`, of the network that is joined.
    pub(super) sysctls: Vec<(String, String)>,
    /// There is a filter of system calls, to be loaded with these bits of seccomp(2).
    pub(super) filter: Option<u32>,
    pub(super) process: ProcessPlan,
}

/// A user namespace that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserNamespace {
    pub(super) path: PathBuf,
    pub(super) ids: HostIds,
}

/// What ids of a container are on the host: so much more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HostIds {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlannedMount {
    /// In the container, absolute.
    pub(super) target: PathBuf,
    pub(super) source: MountSource,
    pub(super) restrictions: Restrictions,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum MountSource {
    /// A folder or a file of the host.
    Bind { path: PathBuf, whole: bool },
    /// `flags` and `options` are of mount(2).
    Filesystem {
        kind: String,
        flags: MsFlags,
        options: String,
    },
    /// The container's own groups.
    Cgroup,
}

/// Why a bundle can't be run.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error("its spec has no {0}")]
    Missing(&'static str),
    #[error("the built-in runtime does not know {what} `{value}`")]
    Unknown { what: &'static str, value: String },
    #[error("the built-in runtime cannot do without a {0} namespace")]
    Namespace(&'static str),
}

impl Plan {
    pub(super) fn of(spec: &Spec) -> Result<Self, PlanError> {
        let root = spec.root().as_ref().ok_or(PlanError::Missing("root"))?;
        let linux = spec.linux().as_ref().ok_or(PlanError::Missing("linux section"))?;
        let process = spec.process().as_ref().ok_or(PlanError::Missing("process"))?;
        let namespaces = namespaces(linux)?;
        let ids = namespaces.user.as_ref().map(|user| user.ids).unwrap_or_default();
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let resources = linux.resources().as_ref();
        let paths = |paths: &Option<Vec<String>>| {
            let paths = paths.as_deref().unwrap_or_default();
            paths.iter().map(PathBuf::from).collect()
        };
        let mut sysctls: Vec<(String, String)> =
            linux.sysctl().clone().unwrap_or_default().into_iter().collect();
        sysctls.sort();
        Ok(Self {
            root: root.path().clone(),
            is_read_only: root.readonly() == Some(true),
            mounts: mounts.iter().map(|m| mount(m, ids)).collect::<Result<_, _>>()?,
            masked: paths(linux.masked_paths()),
            read_only: paths(linux.readonly_paths()),
            joined: namespaces.joined,
            own_cgroup_namespace: namespaces.cgroup,
            user: namespaces.user,
            cgroup: linux
                .cgroups_path()
                .clone()
                .ok_or(PlanError::Missing("cgroup's path"))?,
            limits: limits(resources.ok_or(PlanError::Missing("resources"))?)?,
            sysctls,
            filter: filter(linux)?,
            process: ProcessPlan::of(process)?,
        })
    }

    pub(super) fn ids(&self) -> HostIds {
        self.user.as_ref().map(|user| user.ids).unwrap_or_default()
    }
}

#[derive(Default)]
struct Namespaces {
    joined: Vec<(CloneFlags, PathBuf)>,
    cgroup: bool,
    user: Option<UserNamespace>,
}

fn namespaces(linux: &Linux) -> Result<Namespaces, PlanError> {
    let mut all = Namespaces::default();
    let (mut pid, mut mount) = (false, false);
    for namespace in linux.namespaces().as_deref().unwrap_or_default() {
        let join = |flag| {
            let path = namespace.path().clone();
            path.map(|path| (flag, path))
        };
        match namespace.typ() {
            LinuxNamespaceType::Pid if namespace.path().is_none() => pid = true,
            LinuxNamespaceType::Mount if namespace.path().is_none() => mount = true,
            LinuxNamespaceType::Cgroup if namespace.path().is_none() => all.cgroup = true,
            LinuxNamespaceType::Network => all.joined.extend(join(CloneFlags::CLONE_NEWNET)),
            LinuxNamespaceType::Uts => all.joined.extend(join(CloneFlags::CLONE_NEWUTS)),
            LinuxNamespaceType::Ipc => all.joined.extend(join(CloneFlags::CLONE_NEWIPC)),
            LinuxNamespaceType::User => {
                let path = namespace
                    .path()
                    .clone()
                    .ok_or(PlanError::Missing("path of the user namespace"))?;
                let ids = HostIds {
                    uid: first(linux.uid_mappings().as_deref())?,
                    gid: first(linux.gid_mappings().as_deref())?,
                };
                all.user = Some(UserNamespace { path, ids });
            }
            kind @ (LinuxNamespaceType::Pid
            | LinuxNamespaceType::Mount
            | LinuxNamespaceType::Cgroup
            | LinuxNamespaceType::Time) => {
                return Err(PlanError::Unknown {
                    what: "the namespace",
                    value: kind.to_string(),
                });
            }
        }
    }
    let has = |flag| all.joined.iter().any(|(kind, _)| *kind == flag);
    for (there, name) in [
        (pid, "pid"),
        (mount, "mount"),
        (has(CloneFlags::CLONE_NEWNET), "network"),
        (has(CloneFlags::CLONE_NEWUTS), "uts"),
        (has(CloneFlags::CLONE_NEWIPC), "ipc"),
    ] {
        if !there {
            return Err(PlanError::Namespace(name));
        }
    }
    Ok(all)
}

/// What the container's first id is on the host; all others follow it.
fn first(mappings: Option<&[LinuxIdMapping]>) -> Result<u32, PlanError> {
    match mappings {
        Some([only]) if only.container_id() == 0 => Ok(only.host_id()),
        Some(_) | None => Err(PlanError::Unknown {
            what: "mappings of ids but one from 0, such as",
            value: format!("{mappings:?}"),
        }),
    }
}

fn mount(mount: &Mount, ids: HostIds) -> Result<PlannedMount, PlanError> {
    let options = mount.options().as_deref().unwrap_or_default();
    let mut restrictions = Restrictions::default();
    let mut flags = MsFlags::empty();
    let mut rest = Vec::new();
    let (mut bind, mut whole) = (false, false);
    for option in options {
        let mut restrict = |bit: u64, set| {
            let (to, from) = if set {
                (&mut restrictions.set, &mut restrictions.clear)
            } else {
                (&mut restrictions.clear, &mut restrictions.set)
            };
            *to |= bit;
            *from &= !bit;
        };
        match option.as_str() {
            "ro" => restrict(libc::MOUNT_ATTR_RDONLY, true),
            "rw" => restrict(libc::MOUNT_ATTR_RDONLY, false),
            "nosuid" => restrict(libc::MOUNT_ATTR_NOSUID, true),
            "suid" => restrict(libc::MOUNT_ATTR_NOSUID, false),
            "nodev" => restrict(libc::MOUNT_ATTR_NODEV, true),
            "dev" => restrict(libc::MOUNT_ATTR_NODEV, false),
            "noexec" => restrict(libc::MOUNT_ATTR_NOEXEC, true),
            "exec" => restrict(libc::MOUNT_ATTR_NOEXEC, false),
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            "rbind" => (bind, whole) = (true, true),
            "bind" => bind = true,
            // All are.
            "rprivate" | "private" => {}
            other => rest.push(of_host(other, ids)),
        }
    }
    let kind = mount.typ().as_deref().unwrap_or("bind");
    let source = match kind {
        _ if bind => MountSource::Bind {
            path: mount
                .source()
                .clone()
                .ok_or(PlanError::Missing("source of a mount"))?,
            whole,
        },
        "cgroup" => MountSource::Cgroup,
        "proc" | "tmpfs" | "devpts" | "mqueue" | "sysfs" => {
            if kind == "tmpfs" {
                rest.extend([format!("uid={}", ids.uid), format!("gid={}", ids.gid)]);
            }
            MountSource::Filesystem {
                kind: kind.to_owned(),
                flags,
                options: rest.join(","),
            }
        }
        other => {
            return Err(PlanError::Unknown {
                what: "the filesystem",
                value: other.to_owned(),
            });
        }
    };
    if let (MountSource::Bind { .. } | MountSource::Cgroup, Some(option)) = (&source, rest.first()) {
        return Err(PlanError::Unknown {
            what: "the mount option",
            value: option.clone(),
        });
    }
    Ok(PlannedMount {
        target: mount.destination().clone(),
        source,
        restrictions,
    })
}

/// The host mounts it, and takes ids for its own.
fn of_host(option: &str, ids: HostIds) -> String {
    let group = option
        .strip_prefix("gid=")
        .and_then(|gid| gid.parse::<u32>().ok());
    match group {
        Some(gid) => format!("gid={}", ids.gid.saturating_add(gid)),
        None => option.to_owned(),
    }
}

fn limits(resources: &LinuxResources) -> Result<ContainerLimits, PlanError> {
    let memory = resources.memory().as_ref().and_then(|memory| memory.limit());
    let memory = memory.ok_or(PlanError::Missing("memory limit"))?;
    let pids = resources
        .pids()
        .as_ref()
        .ok_or(PlanError::Missing("pids limit"))?
        .limit();
    let cpu = resources.cpu().as_ref().ok_or(PlanError::Missing("cpu limit"))?;
    let quota = match (cpu.quota(), cpu.period()) {
        (Some(quota), Some(period)) => Some((number("a cpu quota", quota)?, period)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => return Err(PlanError::Missing("cpu quota with its period")),
    };
    let devices = resources.devices().as_deref().unwrap_or_default();
    // The first forbids all, which holds in any case.
    let allowed = devices.iter().filter(|device| device.allow());
    Ok(ContainerLimits {
        memory: Bytes(number("a memory limit", memory)?),
        pids: number("a pids limit", pids)?,
        cpu: CpuShare {
            shares: cpu.shares().ok_or(PlanError::Missing("cpu shares"))?,
            quota,
        },
        devices: allowed.map(device).collect::<Result<_, _>>()?,
    })
}

fn device(device: &oci_spec::runtime::LinuxDeviceCgroup) -> Result<DeviceRule, PlanError> {
    let unknown = || PlanError::Unknown {
        what: "the device rule",
        value: format!("{device:?}"),
    };
    let number = |number: Option<i64>| {
        let number = number.map(u32::try_from).transpose();
        number.map_err(|_| unknown())
    };
    match (device.typ(), device.access().as_deref()) {
        (Some(LinuxDeviceType::C), Some("rwm")) => Ok(DeviceRule {
            major: number(device.major())?.ok_or_else(unknown)?,
            minor: number(device.minor())?,
        }),
        _ => Err(unknown()),
    }
}

fn filter(linux: &Linux) -> Result<Option<u32>, PlanError> {
    let Some(seccomp) = linux.seccomp() else {
        return Ok(None);
    };
    let flags = seccomp.flags().as_deref().unwrap_or_default().iter();
    flags
        .map(|flag| {
            let bits = match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                    return Err(PlanError::Unknown {
                        what: "the seccomp flag",
                        value: flag.to_string(),
                    });
                }
            };
            u32::try_from(bits).map_err(|_| PlanError::Missing("known seccomp flag"))
        })
        .try_fold(0, |all, bits| Ok(all | bits?))
        .map(Some)
}

/// The file of the bundle in `folder`.
pub(super) fn config(folder: &Path) -> PathBuf {
    folder.join("config.json")
}

//! Which capabilities a container holds: Docker's default set, with what it adds and drops.

use super::{BundleError, BundleInput};
use oci_spec::runtime::{Capabilities, Capability};
use proto::policy::DEFAULT_CAPABILITIES;
use std::path::PathBuf;
use std::str::FromStr;

/// Stands for every capability.
const ALL: &str = "ALL";

/// Every capability by its number in Linux' `capability.h`.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// Why the agent's own capabilities can't be told.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} has no line CapBnd")]
    Format { path: PathBuf },
}

/// What this process could give to a container: its bounding set.
///
/// # Errors
/// Where `/proc` does not tell.
pub fn available_capabilities() -> Result<Capabilities, CapabilityError> {
    let path = PathBuf::from("/proc/self/status");
    let status = std::fs::read_to_string(&path);
    let status = status.map_err(|source| CapabilityError::Read {
        path: path.clone(),
        source,
    })?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    match set.map(|hex| u64::from_str_radix(hex.trim(), 16)) {
        Some(Ok(bits)) => Ok(of_bits(bits)),
        Some(Err(_)) | None => Err(CapabilityError::Format { path }),
    }
}

/// All that Linux has.
#[cfg(test)]
pub(crate) fn every_capability() -> Capabilities {
    BY_NUMBER.into()
}

pub(super) fn of_bits(bits: u64) -> Capabilities {
    BY_NUMBER
        .iter()
        .enumerate()
        .filter(|(n, _)| bits & (1 << n) != 0)
        .map(|(_, c)| *c)
        .collect()
}

/// What the container holds. `ALL` and the default set mean what the node has of them; what is added by
/// name must be there.
pub(super) fn of(input: &BundleInput<'_>) -> Result<Capabilities, BundleError> {
    let container = input.container;
    let (add, drop) = (&container.cap_add, &container.cap_drop);
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    let available = input.available;
    let dropped = named(input, drop)?;
    let mut held: Capabilities = if has(add, ALL) {
        available
            .iter()
            .filter(|c| !dropped.contains(c))
            .copied()
            .collect()
    } else if has(drop, ALL) {
        Capabilities::new()
    } else {
        let defaults = DEFAULT_CAPABILITIES
            .iter()
            .filter_map(|name| Capability::from_str(name).ok());
        defaults
            .filter(|c| available.contains(c) && !dropped.contains(c))
            .collect()
    };
    if !has(add, ALL) {
        let added = named(input, add)?;
        if let Some(missing) = added.iter().find(|c| !available.contains(c)) {
            let capability = missing.to_string();
            return Err(BundleError::NoCapability {
                container: container.name.clone(),
                capability,
            });
        }
        held.extend(added);
    }
    Ok(held)
}

fn named(input: &BundleInput<'_>, names: &[String]) -> Result<Vec<Capability>, BundleError> {
    let unknown = |name: &String| BundleError::UnknownCapability {
        container: input.container.name.clone(),
        capability: name.clone(),
    };
    let names = names.iter().filter(|name| *name != ALL);
    names
        .map(|name| Capability::from_str(name).map_err(|_| unknown(name)))
        .collect()
}

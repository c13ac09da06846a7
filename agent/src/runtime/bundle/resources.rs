//! What the container's cgroup allows: memory, cpu, processes and devices.

use super::{BundleError, BundleInput, assemble};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemory,
    LinuxMemoryBuilder, LinuxPids, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
};
use proto::units::{Bytes, MilliCpu};

/// Processes and threads of one container.
pub(super) const PIDS: u64 = 1_024;
/// The kernel's own period: cpu time is given out anew this often.
const PERIOD_US: u64 = 100_000;
/// The kernel's longest period, for shares that would be less than [`MIN_QUOTA_US`] in the usual one.
const LONG_PERIOD_US: u64 = 1_000_000;
/// The kernel's least quota.
const MIN_QUOTA_US: u64 = 1_000;
/// Weight of a whole core, and the kernel's bounds for weights.
const SHARES_PER_CORE: u64 = 1_024;
const SHARES: (u64, u64) = (2, 262_144);

/// Devices that may be opened, by major and minor number. Making any node is allowed by runtimes; opening
/// it is not.
const DEVICES: [(i64, Option<i64>); 8] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

pub(super) fn render(input: &BundleInput<'_>) -> Result<LinuxResources, BundleError> {
    let build = || {
        LinuxResourcesBuilder::default()
            .memory(memory(input.budget.memory_limit, input.cgroup.swap)?)
            .cpu(cpu(input.container.resource.cpu, input.cgroup.quota)?)
            .pids(pids(PIDS)?)
            .devices(devices()?)
            .build()
    };
    build().map_err(assemble(input))
}

pub(super) fn pids(limit: u64) -> Result<LinuxPids, OciSpecError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    LinuxPidsBuilder::default().limit(limit).build()
}

/// `swap`: it is accounted, so that it can be limited.
pub(super) fn memory(limit: Bytes, swap: bool) -> Result<LinuxMemory, OciSpecError> {
    let limit = i64::try_from(limit.0).unwrap_or(i64::MAX);
    let memory = LinuxMemoryBuilder::default().limit(limit);
    // Memory and swap together at the same limit: no swap.
    if swap {
        memory.swap(limit).build()
    } else {
        memory.build()
    }
}

/// With a share, and a `quota` where the runtime is to set it.
pub(super) fn cpu(cpu: MilliCpu, quota: bool) -> Result<LinuxCpu, OciSpecError> {
    let shares = (cpu.0.saturating_mul(SHARES_PER_CORE) / 1_000).clamp(SHARES.0, SHARES.1);
    let limits = LinuxCpuBuilder::default().shares(shares);
    if !quota {
        return limits.build();
    }
    let CpuQuota { quota_us, period_us } = cpu_quota(cpu);
    limits
        .quota(i64::try_from(quota_us).unwrap_or(i64::MAX))
        .period(period_us)
        .build()
}

/// How much cpu time there is in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuQuota {
    pub quota_us: u64,
    pub period_us: u64,
}

/// What the limit of a container is for the kernel.
#[must_use]
pub fn cpu_quota(cpu: MilliCpu) -> CpuQuota {
    let in_period = |period: u64| cpu.0.saturating_mul(period) / 1_000;
    let period_us = if in_period(PERIOD_US) < MIN_QUOTA_US {
        LONG_PERIOD_US
    } else {
        PERIOD_US
    };
    CpuQuota {
        quota_us: in_period(period_us).max(MIN_QUOTA_US),
        period_us,
    }
}

fn devices() -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let mut rules = vec![
        LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()?,
    ];
    for (major, minor) in DEVICES {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .access("rwm")
            .major(major);
        rules.push(match minor {
            Some(minor) => rule.minor(minor).build()?,
            None => rule.build()?,
        });
    }
    Ok(rules)
}

//! What a sandbox may use at most. The scheduler admits by these sums and the agent sets its limits by
//! them, so that filling a budget is ENOSPC and never an OOM kill: tmpfs pages are charged to the memory
//! cgroup that first touches them, hence every budget that a container may write to is part of its limit.

use crate::spec::{Container, Runtime, SandboxSpec};
use crate::units::{Bytes, KIB, MIB, MilliCpu};

/// Of each container, on top of what it asks for: runtime, kernel stacks, page tables, cgroup accounting.
const CONTAINER_OVERHEAD: Bytes = Bytes(2 * MIB);
/// Of each sandbox that runs in a gVisor instance: the kernel, without its program's file, which the page cache
/// can give back, and the container that holds the instance; measured, with as much again in reserve.
const INSTANCE_OVERHEAD: Bytes = Bytes(48 * MIB);
/// Of each of its containers: a file server, and the host's processes that hold its programs' memory.
const INSTANCE_CONTAINER_OVERHEAD: Bytes = Bytes(12 * MIB);
/// Kernel memory of one tmpfs inode with its dentry, charged to the creator (rounded up from the slab sizes
/// of `shmem_inode_cache` and `dentry` on Linux 6.x).
const INODE_BYTES: u64 = 1_200;
/// One inode per this many bytes of a tmpfs.
const BYTES_PER_INODE: u64 = 16 * KIB;
const MIN_INODES: u64 = 1_024;
const MAX_INODES: u64 = 1 << 20;
/// From this size on, the writable budget is split so that neither part is uselessly small.
const SPLIT_FLOOR: Bytes = Bytes(48 * MIB);
const MIN_TMP: Bytes = Bytes(16 * MIB);
const PAGE: u64 = 4 * KIB;

/// The limits of one tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TmpfsLimit {
    /// Whole pages.
    pub size: Bytes,
    pub inodes: u64,
}

impl TmpfsLimit {
    /// `size` rounded down to whole pages, at least one (0 would mean "unlimited" to the kernel).
    #[must_use]
    pub fn of(size: Bytes) -> Self {
        let size = Bytes((size.0 / PAGE).max(1) * PAGE);
        Self {
            size,
            inodes: (size.0 / BYTES_PER_INODE).clamp(MIN_INODES, MAX_INODES),
        }
    }

    /// Memory that is used up when both limits are reached.
    #[must_use]
    pub fn memory(self) -> Bytes {
        Bytes(self.size.0.saturating_add(self.inodes * INODE_BYTES))
    }
}

/// What one container may write to, and what it may use in memory for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerBudget {
    /// The writable layer; `None` where the root filesystem is read-only.
    pub root: Option<TmpfsLimit>,
    pub tmp: TmpfsLimit,
    /// One per `tmpfs` mount, in their order; `None`: draws on `tmp`.
    pub tmpfs: Vec<Option<TmpfsLimit>>,
    /// The limit of its memory cgroup.
    pub memory_limit: Bytes,
}

/// The sums for a whole sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    pub cpu: MilliCpu,
    /// Sum of `memory` and of each tmpfs once; also the limit of the sandbox's own cgroup.
    pub memory: Bytes,
}

/// Splits the writable budget in root layer and `/tmp`: 80 % and 20 %, but at least 32 MiB and 16 MiB once
/// the total is 48 MiB or more.
#[must_use]
pub fn split_writable(total: Bytes) -> (Bytes, Bytes) {
    let fifth = Bytes(total.0 / 5);
    let tmp = if total >= SPLIT_FLOOR {
        fifth.max(MIN_TMP)
    } else {
        fifth
    };
    (total.saturating_sub(tmp), tmp)
}

/// The budget of one container of `spec`.
#[must_use]
pub fn container(spec: &SandboxSpec, container: &Container) -> ContainerBudget {
    let own = own(container);
    let volumes: Bytes = spec
        .volumes
        .iter()
        .filter(|v| {
            container
                .volume_mounts
                .iter()
                .any(|m| m.name == v.name && !m.read_only)
        })
        .map(|v| TmpfsLimit::of(v.size).memory())
        .sum();
    let memory_limit = container.resource.memory + own_memory(&own) + volumes + CONTAINER_OVERHEAD;
    ContainerBudget { memory_limit, ..own }
}

/// What admission must find room for. A node's default runtime is not known then: who makes gVisor the default
/// leaves room for its overhead by `max_alloc_percent`.
#[must_use]
pub fn demand(spec: &SandboxSpec) -> Demand {
    demand_on(spec, spec.runtime)
}

/// The same on a node where that runtime runs it.
#[must_use]
pub fn demand_on(spec: &SandboxSpec, runtime: Option<Runtime>) -> Demand {
    let containers: Bytes = spec
        .containers
        .iter()
        .map(|c| c.resource.memory + own_memory(&own(c)) + CONTAINER_OVERHEAD)
        .sum();
    let volumes: Bytes = spec.volumes.iter().map(|v| TmpfsLimit::of(v.size).memory()).sum();
    Demand {
        cpu: spec.containers.iter().map(|c| c.resource.cpu).sum(),
        memory: containers + volumes + runtime_overhead(spec, runtime),
    }
}

/// What the runtime itself takes while the sandbox runs.
fn runtime_overhead(spec: &SandboxSpec, runtime: Option<Runtime>) -> Bytes {
    match runtime {
        Some(Runtime::Runsc) => {
            let containers = spec.containers.iter().map(|_| INSTANCE_CONTAINER_OVERHEAD);
            INSTANCE_OVERHEAD + containers.sum()
        }
        Some(Runtime::Native | Runtime::Runc | Runtime::Crun) | None => Bytes(0),
    }
}

/// The tmpfs mounts that belong to the container alone.
fn own(container: &Container) -> ContainerBudget {
    let (root, tmp) = split_writable(container.resource.ephemeral_storage);
    ContainerBudget {
        root: (!container.read_only).then(|| TmpfsLimit::of(root)),
        tmp: TmpfsLimit::of(tmp),
        tmpfs: container
            .tmpfs
            .iter()
            .map(|t| t.options.size.map(TmpfsLimit::of))
            .collect(),
        memory_limit: Bytes(0),
    }
}

fn own_memory(own: &ContainerBudget) -> Bytes {
    let mounts = own.tmpfs.iter().flatten().chain(&own.root).chain([&own.tmp]);
    mounts.map(|limit| limit.memory()).sum()
}

//! What a node is: its capacity, kernel, address and name servers, and what sandboxes use of it at present. Owns
//! none of it, reads it from the kernel. Called by `main` once, and by the session for each heartbeat.

use crate::config::Config;
use crate::runtime::cgroup::{Cgroups, Usage};
use crate::session::Used;
use proto::status::{Capacity, NodeReport, RuntimeInfo};
use proto::units::{Bytes, MilliCpu};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const MEMORY: &str = "/proc/meminfo";
const APPARMOR: &str = "/sys/module/apparmor/parameters/enabled";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where the real name servers are if the first one only points to a resolver of this machine.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// The C library looks at no more.
const MAX_NAME_SERVERS: usize = 3;

/// Why a node can't be described.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot read {path}: {source}")]
    Read { path: &'static str, source: io::Error },
    #[error("{MEMORY} has no line MemTotal")]
    Memory,
    #[error("cannot tell how many processors there are: {0}")]
    Processors(io::Error),
    #[error(
        "cannot find out which address of this machine leads to {server}: {source}; name it with --advertise-ip"
    )]
    Address { server: String, source: io::Error },
}

/// What others have found out about the node.
#[derive(Debug, Clone)]
pub struct Found {
    pub runtimes: Vec<RuntimeInfo>,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup_mode: String,
    pub boot_id: String,
    /// Sandboxes have them.
    pub user_namespaces: bool,
}

/// What this node says of itself when it registers.
///
/// # Errors
/// [`NodeError`]
pub fn report(config: &Config, found: Found) -> Result<NodeReport, NodeError> {
    let ip = match (config.advertise_ip, config.servers.first()) {
        (Some(ip), _) => Some(ip),
        (None, Some(server)) => Some(address_towards(server)?),
        (None, None) => None,
    };
    Ok(NodeReport {
        ip,
        // Nothing dials an agent.
        port: 0,
        capacity: capacity(config)?,
        runtimes: found.runtimes,
        default_runtime: config.default_runtime,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: found.boot_id,
        cgroup_mode: found.cgroup_mode,
        kernel: kernel(),
        user_namespaces: Some(found.user_namespaces),
    })
}

fn capacity(config: &Config) -> Result<Capacity, NodeError> {
    let cpu = match config.cpu {
        Some(cpu) => cpu,
        None => {
            let processors = std::thread::available_parallelism().map_err(NodeError::Processors)?;
            MilliCpu(processors.get() as u64 * 1_000)
        }
    };
    let memory = match config.memory {
        Some(memory) => memory,
        None => {
            let table =
                std::fs::read_to_string(MEMORY).map_err(|source| NodeError::Read { path: MEMORY, source })?;
            total_memory(&table).ok_or(NodeError::Memory)?
        }
    };
    Ok(Capacity {
        cpu,
        memory,
        max_alloc_percent: config.max_alloc_percent,
    })
}

fn total_memory(table: &str) -> Option<Bytes> {
    let line = table.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kib * 1_024))
}

fn kernel() -> String {
    let release = nix::sys::utsname::uname();
    release.map_or_else(|_| String::new(), |u| u.release().to_string_lossy().into_owned())
}

/// The address of this machine that packets to the server leave from. Nothing is sent for it.
fn address_towards(server: &str) -> Result<IpAddr, NodeError> {
    let fail = |source| NodeError::Address {
        server: server.to_owned(),
        source,
    };
    let target = resolve(server)
        .map_err(fail)?
        .into_iter()
        .next()
        .ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).map_err(fail)?;
    socket.connect(target).map_err(fail)?;
    Ok(socket.local_addr().map_err(fail)?.ip())
}

/// The addresses of a replica that is given as `http://host:port`. Blocks while a name is looked up.
///
/// # Errors
/// Where it can't be looked up.
pub fn resolve(server: &str) -> io::Result<Vec<SocketAddr>> {
    let (_, authority) = server.split_once("://").unwrap_or(("", server));
    Ok(authority.to_socket_addrs()?.collect())
}

/// The text of `resolv.conf` for sandboxes: the name servers that were configured, or else those of this machine that a
/// sandbox can reach, which one of the machine's own loopback it can't.
#[must_use]
pub fn resolv_conf(configured: &[IpAddr]) -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut servers = configured.to_vec();
    for path in [RESOLV_CONF, RESOLVED_CONF] {
        if servers.is_empty() {
            servers = reachable_name_servers(&read(path));
        }
    }
    let lines = servers.iter().take(MAX_NAME_SERVERS);
    lines.map(|server| format!("nameserver {server}\n")).collect()
}

/// Whether this machine's kernel enforces AppArmor profiles.
#[must_use]
pub fn has_apparmor() -> bool {
    std::fs::read_to_string(APPARMOR).is_ok_and(|enabled| enabled.trim() == "Y")
}

fn reachable_name_servers(text: &str) -> Vec<IpAddr> {
    let words = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    words
        .filter_map(|rest| rest.trim().parse().ok())
        .filter(|ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified() && ip.is_ipv4())
        .collect()
}

/// Tells what all sandboxes of an agent use.
#[derive(Debug)]
pub struct Meter {
    cgroups: Cgroups,
    parent: PathBuf,
    last: Mutex<Option<(Instant, Usage)>>,
}

impl Meter {
    #[must_use]
    pub fn new(cgroups: Cgroups, parent: &Path) -> Self {
        Self {
            cgroups,
            parent: parent.to_owned(),
            last: Mutex::new(None),
        }
    }

    /// Cpu on average since this was called last, memory at present. Zero where the kernel does not tell, and
    /// cpu the first time.
    pub fn read(&self) -> Used {
        let now = Instant::now();
        let usage = match self.cgroups.usage(&self.parent) {
            Ok(usage) => usage,
            Err(error) => {
                tracing::debug!(%error, "cannot tell what sandboxes use");
                return Used::default();
            }
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu_milli = last.map_or(0, |(then, before)| {
            let used = u128::from(usage.cpu_usec.saturating_sub(before.cpu_usec));
            let passed = now.duration_since(then).as_micros().max(1);
            u64::try_from(used * 1_000 / passed).unwrap_or(u64::MAX)
        });
        *last = Some((now, usage));
        Used {
            cpu_milli,
            memory_bytes: usage.memory_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_table() {
        let table = "MemFree:  1 kB\nMemTotal:       16265776 kB\n";
        assert_eq!(total_memory(table), Some(Bytes(16_265_776 * 1_024)));
        assert_eq!(total_memory("MemTotal: many\n"), None);
    }

    #[test]
    fn name_servers_that_a_sandbox_cannot_reach_are_left_out() {
        let text = "# made by hand\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\nsearch x\n";
        assert_eq!(reachable_name_servers(text), [IpAddr::from([10, 0, 0, 2])]);
        assert_eq!(
            resolv_conf(&[IpAddr::from([10, 0, 0, 9])]),
            "nameserver 10.0.0.9\n"
        );
    }

    #[test]
    fn own_address_is_the_one_towards_the_server() {
        let address = address_towards("http://127.0.0.1:7070").expect("loopback is there");
        assert_eq!(address, IpAddr::from([127, 0, 0, 1]));
    }
}

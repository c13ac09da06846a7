//! What nftables does for a local cluster: masquerading on the machine, partitions inside members.

use super::DevError;
use super::netns;
use super::plan::Plan;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

/// The table of a partition, inside a member's namespace.
const PARTITION: &str = "sbxdev_partition";

/// Lets members reach what the machine reaches, in its name.
pub(super) fn open(plan: &Plan) -> Result<(), DevError> {
    nft("masquerade the members", &masquerade(plan))
}

pub(super) fn close(plan: &Plan) -> Result<(), DevError> {
    let table = plan.table();
    // Adding first makes the deletion succeed also where there is no such table.
    nft(
        "remove the masquerading",
        &format!("add table ip {table}\ndelete table ip {table}\n"),
    )
}

fn masquerade(plan: &Plan) -> String {
    let (table, subnet, bridge) = (plan.table(), plan.subnet, plan.bridge());
    format!(
        "add table ip {table}
delete table ip {table}
table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != \"{bridge}\" masquerade
  }}
}}
"
    )
}

/// Drops all packets between the member in `namespace` and `peers`, in both directions.
pub(super) fn cut(namespace: &Path, peers: &[Ipv4Addr]) -> Result<(), DevError> {
    let rules = partition(peers);
    netns::within(namespace, || nft("partition a member", &rules))
}

pub(super) fn heal(namespace: &Path) -> Result<(), DevError> {
    netns::within(namespace, || {
        nft(
            "heal a member",
            &format!("add table ip {PARTITION}\ndelete table ip {PARTITION}\n"),
        )
    })
}

/// At the very first and last hooks, so that forwarded packets of sandboxes are caught as well.
fn partition(peers: &[Ipv4Addr]) -> String {
    let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
    let peers = peers.join(", ");
    format!(
        "add table ip {PARTITION}
delete table ip {PARTITION}
table ip {PARTITION} {{
  set cut {{
    type ipv4_addr
    elements = {{ {peers} }}
  }}
  chain in {{
    type filter hook prerouting priority raw; policy accept;
    ip saddr @cut drop
  }}
  chain out {{
    type filter hook postrouting priority raw; policy accept;
    ip daddr @cut drop
  }}
}}
"
    )
}

fn nft(act: &str, rules: &str) -> Result<(), DevError> {
    let failed = |source| DevError::RunNft {
        act: act.to_owned(),
        source,
    };
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(DevError::Nft {
        act: act.to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

//! Why a sandbox can't be connected or disconnected.

use crate::runtime::firewall::FirewallError;
use crate::runtime::netlink::NetlinkError;
use proto::id::Uid;
use proto::spec::Cidr;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error("{subnet} is no subnet for sandboxes: give an IPv4 network, such as 10.89.0.0/16")]
    Subnet { subnet: Cidr },
    #[error("{ip} of sandbox {uid} is not in the node's subnet {subnet} of sandboxes")]
    OutOfSubnet { ip: Ipv4Addr, uid: Uid, subnet: Cidr },
    #[error("cannot enter the network namespace {path}: {source}")]
    Enter { path: PathBuf, source: io::Error },
    #[error("cannot set {path} to {value}: {source}")]
    Sysctl {
        path: PathBuf,
        value: &'static str,
        source: io::Error,
    },
    /// The kernel refused a change of links, addresses, routes or neighbours.
    #[error("cannot {act} of sandbox {uid}: {source}")]
    Link {
        act: &'static str,
        uid: Uid,
        source: NetlinkError,
    },
    #[error("cannot list the links of sandboxes: {0}")]
    List(NetlinkError),
    #[error("a link of sandbox {uid} was not up within {limit_ms} ms")]
    NotUp { uid: Uid, limit_ms: u128 },
    #[error("cannot wait for changes of the firewall by other programs: {0}")]
    Watch(io::Error),
    #[error("cannot start a thread to change the network on: {0}")]
    Thread(io::Error),
    #[error("the thread that was to {act} died")]
    ThreadDied { act: &'static str },
}

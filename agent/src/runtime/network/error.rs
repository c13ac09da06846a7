//! Why a sandbox can't be connected or disconnected.

use crate::runtime::firewall::FirewallError;
use proto::id::Uid;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error("cannot open a netlink socket to {act}: {source}")]
    Socket { act: &'static str, source: io::Error },
    /// The kernel refused a change of links, addresses, routes or neighbours.
    #[error("cannot {act} for sandbox {uid}: {source}")]
    Link {
        act: &'static str,
        uid: Uid,
        source: io::Error,
    },
    #[error("cannot list the links of sandboxes: {0}")]
    List(io::Error),
    #[error("cannot set {path} to {value}: {source}")]
    Sysctl {
        path: PathBuf,
        value: &'static str,
        source: io::Error,
    },
    #[error("cannot enter the network namespace {path} of sandbox {uid}: {source}")]
    Enter {
        path: PathBuf,
        uid: Uid,
        source: io::Error,
    },
    #[error("the link of sandbox {uid} was not up within {limit_ms} ms")]
    NotUp { uid: Uid, limit_ms: u128 },
    #[error("{ip} of sandbox {uid} is not in the node's subnet {subnet} of sandboxes")]
    OutOfSubnet {
        ip: std::net::Ipv4Addr,
        uid: Uid,
        subnet: proto::spec::Cidr,
    },
    #[error("cannot start a thread to change the network on: {0}")]
    Thread(io::Error),
    #[error("the thread that changed the network of sandbox {0} died")]
    ThreadDied(Uid),
}

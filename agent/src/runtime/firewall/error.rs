//! Why the firewall can't be changed.

use super::layout::TABLE;
use crate::runtime::netlink::NetlinkError;
use proto::id::Uid;

#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("cannot speak to the kernel's firewall: {0}")]
    Open(NetlinkError),
    #[error(
        "another program holds table inet {TABLE} in this network namespace: does another agent run here?"
    )]
    Taken,
    #[error("cannot watch the firewall for changes by other programs: {0}")]
    Watch(NetlinkError),
    /// The kernel refused one message of a transaction, and with it all.
    #[error("the firewall cannot {act}: {source}")]
    Refused { act: String, source: NetlinkError },
    #[error("the firewall cannot carry out a transaction: {0}")]
    Commit(NetlinkError),
    #[error("cannot list what the firewall has in {set}: {source}")]
    List { set: &'static str, source: NetlinkError },
    #[error("cannot forget the connections of sandbox {uid}: {source}")]
    Connections { uid: Uid, source: NetlinkError },
}

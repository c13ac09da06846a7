//! Why the firewall can't be changed.

use proto::id::Uid;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("cannot open a netlink socket to the firewall: {0}")]
    Socket(io::Error),
    #[error("cannot send a transaction to the firewall: {0}")]
    Send(io::Error),
    #[error("cannot read the kernel's answer about the firewall: {0}")]
    Receive(io::Error),
    /// The kernel refused one message of a transaction, and with it all.
    #[error("the firewall cannot {act}: {source}")]
    Refused { act: String, source: io::Error },
    #[error("the firewall cannot apply the transaction: {0}")]
    Commit(io::Error),
    #[error("the kernel said nothing about a transaction of the firewall")]
    Silent,
    #[error("cannot list the elements of `{set}`: {source}")]
    List { set: &'static str, source: io::Error },
    #[error("cannot forget the connections of sandbox {uid}: {source}")]
    Connections { uid: Uid, source: io::Error },
}

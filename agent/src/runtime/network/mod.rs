//! How sandboxes are connected: each by a cable (veth) of its own to the node, which routes one address through it.
//! No bridge: there is no layer 2 between sandboxes, and the firewall sees every packet.
//!
//! Owns the node's links named `sbx-*` with their routes and neighbours, and through [`super::firewall`] the one
//! nftables table. Never touches other links. Called by the agent when a sandbox starts and ends.

mod error;
mod name;

pub use error::NetworkError;
pub use name::{LinkName, PREFIX};

use crate::runtime::firewall::Rules;
use proto::id::Uid;
use proto::spec::Cidr;
use std::net::Ipv4Addr;
use std::path::Path;

/// What holds for all sandboxes of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Where sandboxes have their addresses: IPv4, closed to all sandboxes.
    pub subnet: Cidr,
    /// Closed to all sandboxes besides: the control plane.
    pub protected: Vec<Cidr>,
}

/// The network of this node's sandboxes, in the network namespace it was opened in. Clones share it.
#[derive(Debug, Clone)]
pub struct Network {}

pub(super) fn raise_loopback() -> std::io::Result<()> {
    todo!()
}

impl Network {
    /// Turns on forwarding and sets up the table in one transaction. What the table has of sandboxes whose link is
    /// there stays as it is, what it has of others is dropped.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing of the table is changed then.
    pub async fn open(_config: NetworkConfig) -> Result<Self, NetworkError> {
        todo!()
    }

    /// Connects the sandbox whose network namespace is pinned at `netns`: the firewall first, in one transaction,
    /// then the links. When it returns, packets flow. What is there of the same uid is replaced.
    ///
    /// # Errors
    /// [`NetworkError`]; what was done until then is undone.
    pub async fn attach(
        &self,
        _uid: Uid,
        _ip: Ipv4Addr,
        _netns: &Path,
        _rules: &Rules,
    ) -> Result<(), NetworkError> {
        todo!()
    }

    /// Removes everything of the uid: its link, then its rules, then its connections. Every failure; none there is
    /// none to remove.
    pub async fn detach(&self, _uid: Uid) -> Vec<NetworkError> {
        todo!()
    }

    /// Replaces the protected addresses: called when the control plane's are known better.
    ///
    /// # Errors
    /// [`NetworkError::Firewall`]; the former ones stay protected then.
    pub async fn protect(&self, _protected: &[Cidr]) -> Result<(), NetworkError> {
        todo!()
    }

    /// The sandboxes of which a link or a rule is there, as the kernel says; in order.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn attached(&self) -> Result<Vec<Uid>, NetworkError> {
        todo!()
    }
}

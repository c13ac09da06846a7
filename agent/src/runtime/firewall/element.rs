//! The sets of the table and what they hold: all that differs from sandbox to sandbox.

use super::block::Block;
use crate::runtime::network::LinkName;
use proto::id::Uid;
use proto::spec::Protocol;
use std::fmt;
use std::net::Ipv4Addr;

/// A set or map of the table. What is in none of them is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Which address belongs to which link.
    Addresses,
    /// Links that may reach the outside.
    Egress,
    /// Links and the blocks of addresses open to them.
    Allow,
    /// The same for one port of them.
    AllowPort,
    /// Addresses closed to all sandboxes.
    Protected,
    /// The node's ports and where they lead.
    Ports,
}

impl Set {
    pub const ALL: [Self; 6] = [
        Self::Addresses,
        Self::Egress,
        Self::Allow,
        Self::AllowPort,
        Self::Protected,
        Self::Ports,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Egress => "egress",
            Self::Allow => "allow",
            Self::AllowPort => "allow_port",
            Self::Protected => "protected",
            Self::Ports => "ports",
        }
    }
}

/// One member of one set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    Address {
        link: LinkName,
        ip: Ipv4Addr,
    },
    Egress {
        link: LinkName,
    },
    Allow {
        link: LinkName,
        block: Block,
    },
    AllowPort {
        link: LinkName,
        block: Block,
        protocol: Protocol,
        port: u16,
    },
    Protected {
        block: Block,
    },
    Port {
        /// Not part of the key: says whose it is.
        link: LinkName,
        protocol: Protocol,
        host_port: u16,
        ip: Ipv4Addr,
        container_port: u16,
    },
}

impl Element {
    #[must_use]
    pub fn set(&self) -> Set {
        match self {
            Self::Address { .. } => Set::Addresses,
            Self::Egress { .. } => Set::Egress,
            Self::Allow { .. } => Set::Allow,
            Self::AllowPort { .. } => Set::AllowPort,
            Self::Protected { .. } => Set::Protected,
            Self::Port { .. } => Set::Ports,
        }
    }

    /// Whose it is; `None`: all sandboxes'.
    #[must_use]
    pub fn uid(&self) -> Option<Uid> {
        match self {
            Self::Address { link, .. }
            | Self::Egress { link }
            | Self::Allow { link, .. }
            | Self::AllowPort { link, .. }
            | Self::Port { link, .. } => Some(link.uid()),
            Self::Protected { .. } => None,
        }
    }
}

/// As `nft list` spells it.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { link, ip } => write!(f, "\"{link}\" . {ip}"),
            Self::Egress { link } => write!(f, "\"{link}\""),
            Self::Allow { link, block } => write!(f, "\"{link}\" . {block}"),
            Self::AllowPort {
                link,
                block,
                protocol,
                port,
            } => write!(f, "\"{link}\" . {block} . {protocol} . {port}"),
            Self::Protected { block } => write!(f, "{block}"),
            Self::Port {
                link,
                protocol,
                host_port,
                ip,
                container_port,
            } => write!(
                f,
                "{protocol} . {host_port} comment \"{link}\" : {ip} . {container_port}"
            ),
        }
    }
}

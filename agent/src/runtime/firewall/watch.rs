//! Sees what other programs do to the table, where the kernel can't keep them from it.

use super::encode::NFTABLES;
use super::error::FirewallError;
use super::layout::TABLE;
use crate::runtime::netlink::attribute::find;
use crate::runtime::netlink::{Conversation, Message, NetlinkError};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use std::io;
use std::os::fd::OwnedFd;

/// The bit of `NFNLGRP_NFTABLES`, which is the seventh group.
const CHANGES_OF_TABLES: u32 = 1 << 6;

#[derive(Debug)]
pub(super) struct Watch {
    kernel: Conversation,
}

impl Watch {
    /// Of the calling thread's network namespace, from now on.
    pub(super) fn open() -> Result<Self, FirewallError> {
        let kernel = Conversation::open(NETLINK_NETFILTER, CHANGES_OF_TABLES);
        Ok(Self {
            kernel: kernel.map_err(FirewallError::Watch)?,
        })
    }

    /// Readable when anybody has changed any table.
    pub(super) fn readiness(&self) -> io::Result<OwnedFd> {
        self.kernel.readiness()
    }

    /// Whether anybody but the socket of number `own` has changed the table since this was asked last; also where that
    /// can't be told, because too much happened at once.
    pub(super) fn others_changed(&mut self, own: u32) -> Result<bool, FirewallError> {
        match self.kernel.drain() {
            Ok(messages) => Ok(messages.iter().any(|m| m.port != own && is_about_the_table(m))),
            Err(NetlinkError::Receive(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                Ok(true)
            }
            Err(error) => Err(FirewallError::Watch(error)),
        }
    }
}

/// Every message but that of a new generation names its table first.
fn is_about_the_table(message: &Message) -> bool {
    let attributes = message.body.get(4..).unwrap_or_default();
    let name = find(attributes, 1).map(|name| name.strip_suffix(&[0]).unwrap_or(name));
    message.kind >> 8 == NFTABLES && name == Some(TABLE.as_bytes())
}

//! The table in the kernel: carries out transactions and lists elements. Decides nothing.

use super::decode;
use super::element::{Element, Set};
use super::encode::{self, GET_ELEMENT};
use super::error::FirewallError;
use super::layout::TABLE;
use super::message::Message;
use crate::runtime::netlink::{Conversation, NetlinkError};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

#[derive(Debug)]
pub(super) struct Table {
    pub(super) kernel: Conversation,
}

impl Table {
    /// The table of the calling thread's network namespace. Makes nothing.
    pub(super) fn open() -> Result<Self, FirewallError> {
        let kernel = Conversation::open(NETLINK_NETFILTER, 0).map_err(FirewallError::Open)?;
        Ok(Self { kernel })
    }

    /// All of the messages, or none.
    pub(super) fn commit(&mut self, messages: &[Message]) -> Result<(), FirewallError> {
        if messages.is_empty() {
            return Ok(());
        }
        let requests = encode::transaction(messages);
        self.kernel.change(&requests).map_err(|(index, source)| {
            // The first request begins the transaction: the kernel refused it as a whole.
            match index
                .and_then(|index| index.checked_sub(1))
                .and_then(|index| messages.get(index))
            {
                Some(message) => FirewallError::Refused {
                    act: message.to_string(),
                    source,
                },
                None => FirewallError::Commit(source),
            }
        })
    }

    /// What the sets hold of sandboxes; nothing where there is no table.
    pub(super) fn elements(&mut self) -> Result<Vec<Element>, FirewallError> {
        let mut elements = Vec::new();
        for set in Set::ALL {
            let request = encode::request(GET_ELEMENT, 0, |w| {
                w.put_str(1, TABLE);
                w.put_str(2, set.name());
            });
            match self.kernel.list(request) {
                Ok(listed) => elements.extend(listed.iter().flat_map(|m| decode::elements(set, &m.body))),
                Err(error) if is_absent(&error) => {}
                Err(source) => {
                    let set = set.name();
                    return Err(FirewallError::List { set, source });
                }
            }
        }
        Ok(elements)
    }
}

/// Another socket holds the table.
pub(super) fn is_held(error: &NetlinkError) -> bool {
    error.errno() == Some(Errno::EPERM)
}

/// The kernel knows no tables that are held, or this one was made without.
pub(super) fn is_unsupported(error: &NetlinkError) -> bool {
    error.errno() == Some(Errno::EOPNOTSUPP)
}

pub(super) fn is_absent(error: &NetlinkError) -> bool {
    error.errno() == Some(Errno::ENOENT)
}

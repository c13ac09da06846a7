//! Links as one network namespace has them: makes changes, finds a link, awaits that it is up. Decides nothing.

use super::message;
use crate::runtime::netlink::attribute::find;
use crate::runtime::netlink::{ACK, Conversation, Failure, Message, NetlinkError, Request};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use std::io;
use std::time::Instant;

/// `RTMGRP_LINK`: to be told what becomes of links.
const CHANGES_OF_LINKS: u32 = 1;
/// `RTM_NEWLINK`
const LINK: u16 = 16;
/// `IFLA_*`
const NAME: u16 = 3;
const OPERATIONAL_STATE: u16 = 16;
/// `IF_OPER_UP`
const UP: u8 = 6;
/// Of `struct ifinfomsg`.
const HEADER: usize = 16;

#[derive(Debug)]
pub(super) struct Links {
    kernel: Conversation,
}

impl Links {
    /// Of the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let kernel = Conversation::open(NETLINK_ROUTE, CHANGES_OF_LINKS)?;
        Ok(Self { kernel })
    }

    /// In this order; stops at none, tells the first that failed.
    pub(super) fn change(&mut self, requests: Vec<Request>) -> Result<(), Failure> {
        let acknowledged: Vec<Request> = requests
            .into_iter()
            .map(|request| Request {
                flags: request.flags | ACK,
                ..request
            })
            .collect();
        self.kernel.change(&acknowledged)
    }

    /// The number of the link with this name.
    pub(super) fn index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let found = self.kernel.get(message::get_link(name))?;
        found.iter().find_map(index).ok_or(NetlinkError::Malformed)
    }

    /// The names of all links.
    pub(super) fn names(&mut self) -> Result<Vec<String>, NetlinkError> {
        let listed = self.kernel.list(message::list_links())?;
        Ok(listed.iter().filter_map(name).collect())
    }

    /// Waits until the link carries packets, which is some time after it was raised. Whether it does.
    pub(super) fn await_up(
        &mut self,
        link: &str,
        number: u32,
        deadline: Instant,
    ) -> Result<bool, NetlinkError> {
        // What was told until now may have been read as part of other answers: ask once, then listen.
        self.kernel.send(&[message::get_link(link)])?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.kernel.wait_at_most(left)?;
            match self.kernel.receive() {
                Ok(messages) => {
                    if messages.iter().any(|m| index(m) == Some(number) && is_up(m)) {
                        return Ok(true);
                    }
                }
                Err(NetlinkError::Receive(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Too much was told at once, some of it is lost.
                Err(NetlinkError::Receive(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    self.kernel.send(&[message::get_link(link)])?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn index(message: &Message) -> Option<u32> {
    let bytes = message.body.get(4..)?.first_chunk()?;
    (message.kind == LINK).then(|| u32::from_ne_bytes(*bytes))
}

fn name(message: &Message) -> Option<String> {
    let bytes = find(message.body.get(HEADER..)?, NAME)?;
    let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    Some(String::from_utf8_lossy(text).into_owned())
}

fn is_up(message: &Message) -> bool {
    let attributes = message.body.get(HEADER..).unwrap_or_default();
    find(attributes, OPERATIONAL_STATE) == Some(&[UP])
}

//! A conversation with the kernel over one netlink socket: requests in, refusals and listings out.
//!
//! Knows headers and answers, not what is asked: that is the business of [`super::firewall`] (nftables,
//! conntrack) and [`super::network`] (links, addresses, routes). The kernel works off a request before `send`
//! returns, hence nothing here is async: the answer is there when it is read.

pub(super) mod attribute;

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::packet_core::NetlinkSerializable;
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel sends no longer datagrams when it lists (`NLMSG_GOODSIZE`), and one answer is shorter.
const DATAGRAM: usize = 64 << 10;
/// A transaction is one datagram and must fit: ten thousand elements are some 2 MiB.
const SEND_BUFFER: usize = 8 << 20;
/// Answers wait here until they are read: an error for each of ten thousand elements fits.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The answer is there when a request has been sent; without one after this time something is badly wrong.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A listing during which something changed is incomplete, and done again; so often at most.
const LISTINGS: usize = 32;

/// `NLM_F_*` of linux/netlink.h
pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const CAPPED: u16 = 0x100;
const ACK_ATTRIBUTES: u16 = 0x200;
/// `NLMSG_*`
const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`: the kernel's own words.
const ERROR_TEXT: u16 = 1;

/// What the kernel answers to a request it does not carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub errno: Errno,
    /// The kernel's own words, often empty.
    pub text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from(self.errno))?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Why a conversation came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket: {0}")]
    Open(io::Error),
    #[error("cannot send to the kernel: {0}")]
    Send(io::Error),
    #[error("cannot read the kernel's answer: {0}")]
    Receive(io::Error),
    #[error("the kernel's answer is malformed")]
    Malformed,
    #[error("{0}")]
    Refused(Refusal),
    #[error("the listing changed {LISTINGS} times while it was read")]
    Unsettled,
}

impl NetlinkError {
    /// The kernel's refusal, if it is one.
    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused(refusal) => Some(refusal.errno),
            Self::Open(_) | Self::Send(_) | Self::Receive(_) | Self::Malformed | Self::Unsettled => None,
        }
    }
}

/// One message to the kernel, without header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: u16,
    /// Beside [`REQUEST`].
    pub(super) flags: u16,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// A request about links, addresses, routes or neighbours.
    pub(super) fn route(message: &RouteNetlinkMessage, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self {
            kind: message.message_type(),
            flags,
            body,
        }
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    /// Of the socket that asked for what this tells of; 0: the kernel itself.
    pub(super) port: u32,
    pub(super) body: Vec<u8>,
}

/// The request that was refused, by its place, and why. Without a place: all of them.
pub(super) type Failure = (Option<usize>, NetlinkError);

#[derive(Debug)]
pub(super) struct Conversation {
    socket: Socket,
    sequence: u32,
}

impl Conversation {
    /// In the calling thread's network namespace, for good; `groups` is the mask of what to be told unasked.
    pub(super) fn open(protocol: isize, groups: u32) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind(&SocketAddr::new(0, groups))?;
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            Ok(socket)
        };
        let conversation = Self {
            socket: open().map_err(NetlinkError::Open)?,
            sequence: 0,
        };
        conversation.wait_at_most(ANSWER_TIMEOUT)?;
        Ok(conversation)
    }

    /// The number by which the kernel tells who asked.
    pub(super) fn port(&self) -> Result<u32, NetlinkError> {
        let mut address = SocketAddr::new(0, 0);
        self.socket
            .get_address(&mut address)
            .map_err(NetlinkError::Open)?;
        Ok(address.port_number())
    }

    /// For waiting until there is something to [`Self::drain`].
    pub(super) fn readiness(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// What was told unasked since this was called last. Waits for nothing.
    pub(super) fn drain(&mut self) -> Result<Vec<Message>, NetlinkError> {
        let mut messages = Vec::new();
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            match self
                .socket
                .recv_from(&mut datagram, MsgFlags::MSG_DONTWAIT.bits())
            {
                Ok(_) => messages.extend(parse(&datagram).ok_or(NetlinkError::Malformed)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(messages),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::Receive(error)),
            }
        }
    }

    /// How long [`Self::receive`] waits.
    pub(super) fn wait_at_most(&self, limit: Duration) -> Result<(), NetlinkError> {
        let micros = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX).max(1);
        setsockopt(
            &self.socket,
            sockopt::ReceiveTimeout,
            &TimeVal::microseconds(micros),
        )
        .map_err(|errno| NetlinkError::Open(errno.into()))
    }

    /// Sends the requests in one datagram. At least one of them asks for an answer ([`ACK`]).
    ///
    /// # Errors
    /// The first one refused. Whether the others were carried out is the protocol's matter: of an nftables batch
    /// none is, of other requests each for itself.
    pub(super) fn change(&mut self, requests: &[Request]) -> Result<(), Failure> {
        let first = self.send(requests).map_err(|error| (None, error))?;
        let Some(last) = requests.iter().rposition(|r| r.flags & ACK != 0) else {
            return Ok(());
        };
        let mut failure: Option<(usize, Refusal)> = None;
        loop {
            for message in self.receive().map_err(|error| (None, error))? {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.kind != ERROR || index >= requests.len() {
                    continue;
                }
                if let Some(refusal) = refusal(&message).map_err(|error| (None, error))? {
                    // The kernel tells them in order, but for that of a whole batch, which is about its begin.
                    if failure.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                        failure = Some((index, refusal));
                    }
                }
                if index == last || failure.as_ref().is_some_and(|(index, _)| *index == 0) {
                    return match failure {
                        None => Ok(()),
                        Some((index, refusal)) => Err((Some(index), NetlinkError::Refused(refusal))),
                    };
                }
            }
        }
    }

    /// Everything that matches the request.
    pub(super) fn list(&mut self, mut request: Request) -> Result<Vec<Message>, NetlinkError> {
        request.flags |= DUMP;
        for _ in 0..LISTINGS {
            if let Some(messages) = self.try_list(&request)? {
                return Ok(messages);
            }
        }
        Err(NetlinkError::Unsettled)
    }

    /// What one request is answered with, before it is acknowledged.
    pub(super) fn get(&mut self, mut request: Request) -> Result<Vec<Message>, NetlinkError> {
        request.flags |= ACK;
        Ok(self.try_list(&request)?.unwrap_or_default())
    }

    fn try_list(&mut self, request: &Request) -> Result<Option<Vec<Message>>, NetlinkError> {
        let sequence = self.send(std::slice::from_ref(request))?;
        let mut listed = Vec::new();
        let mut complete = true;
        loop {
            for message in self.receive()? {
                if message.sequence != sequence {
                    continue;
                }
                complete &= message.flags & DUMP_INTERRUPTED == 0;
                match message.kind {
                    NOOP => {}
                    ERROR => match refusal(&message)? {
                        Some(refusal) => return Err(NetlinkError::Refused(refusal)),
                        None => return Ok(complete.then_some(listed)),
                    },
                    DONE => {
                        let code = message.body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                        if code < 0 && Errno::from_raw(-code) != Errno::EINTR {
                            return Err(NetlinkError::Refused(Refusal {
                                errno: Errno::from_raw(-code),
                                text: String::new(),
                            }));
                        }
                        return Ok((complete && code >= 0).then_some(listed));
                    }
                    _ => listed.push(message),
                }
            }
        }
    }

    /// Returns the sequence number of the first; those of the others follow.
    pub(super) fn send(&mut self, requests: &[Request]) -> Result<u32, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(requests.iter().map(|r| HEADER + r.body.len() + 3).sum());
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let length = u32::try_from(HEADER + request.body.len())
                .map_err(|_| NetlinkError::Send(Errno::EMSGSIZE.into()))?;
            datagram.extend_from_slice(&length.to_ne_bytes());
            datagram.extend_from_slice(&request.kind.to_ne_bytes());
            datagram.extend_from_slice(&(request.flags | REQUEST).to_ne_bytes());
            datagram.extend_from_slice(&self.sequence.to_ne_bytes());
            datagram.extend_from_slice(&[0; 4]);
            datagram.extend_from_slice(&request.body);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        self.socket
            .send_to(&datagram, &SocketAddr::new(0, 0), 0)
            .map_err(NetlinkError::Send)?;
        Ok(first)
    }

    /// The next datagram's messages.
    pub(super) fn receive(&mut self) -> Result<Vec<Message>, NetlinkError> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            match self.socket.recv_from(&mut datagram, 0) {
                Ok(_) => return parse(&datagram).ok_or(NetlinkError::Malformed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::Receive(error)),
            }
        }
    }
}

fn parse(mut datagram: &[u8]) -> Option<Vec<Message>> {
    let mut messages = Vec::new();
    while datagram.len() >= HEADER {
        let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        if length < HEADER || length > datagram.len() {
            return None;
        }
        let number = |at: usize| -> Option<u16> { Some(u16::from_ne_bytes(*datagram[at..].first_chunk()?)) };
        messages.push(Message {
            kind: number(4)?,
            flags: number(6)?,
            sequence: u32::from_ne_bytes(*datagram[8..].first_chunk()?),
            port: u32::from_ne_bytes(*datagram[12..].first_chunk()?),
            body: datagram[HEADER..length].to_vec(),
        });
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    Some(messages)
}

/// `None`: the message says that all is well.
fn refusal(message: &Message) -> Result<Option<Refusal>, NetlinkError> {
    let code = message.body.first_chunk().ok_or(NetlinkError::Malformed)?;
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Ok(None);
    }
    // Behind the number stands the request, or its header only.
    let echoed = match message.flags & CAPPED {
        0 => message
            .body
            .get(4..)
            .and_then(|b| b.first_chunk())
            .map_or(HEADER, |b| (u32::from_ne_bytes(*b) as usize).next_multiple_of(4)),
        _ => HEADER,
    };
    let about = match message.flags & ACK_ATTRIBUTES {
        0 => &[],
        _ => message.body.get(4 + echoed..).unwrap_or_default(),
    };
    let text = attribute::read(about)
        .find(|(kind, _)| *kind == ERROR_TEXT)
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    Ok(Some(Refusal {
        errno: Errno::from_raw(code.saturating_neg()),
        text: text.unwrap_or_default(),
    }))
}

//! Messages to the firewall as the kernel wants them, after linux/netfilter/nf_tables.h. Pure.
//!
//! The numbers of types (of keys and values) are nft's own: the kernel keeps them so that `nft list` can show what
//! is in a set.

use super::block::Block;
use super::element::{Element, Set};
use super::expression::{Base, Expression, Meta, Register, Tracked, Verdict};
use super::layout::{Chain, TABLE};
use super::message::{Hold, Message};
use crate::runtime::netlink::attribute::Writer;
use crate::runtime::netlink::{ACK, APPEND, CREATE, EXCL, Request};
use crate::runtime::network::LinkName;
use proto::spec::Protocol;
use std::net::Ipv4Addr;

/// `NFNL_SUBSYS_NFTABLES`
pub(super) const NFTABLES: u16 = 10;
/// `NFPROTO_INET`
const INET: u8 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_GOTO: i32 = -4;
const NFPROTO_IPV4: u32 = 2;

pub(super) const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
pub(super) const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFT_TABLE_F_*`
const TABLE_OWNER: u32 = 0x2;
const TABLE_PERSIST: u32 = 0x4;
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const CONCATENATED: u32 = 0x80;
const INTERVAL_END: u32 = 0x1;

/// nft's `TYPE_*`, and how it strings them together.
const TYPE_IPV4: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_NAME: u32 = 41;
const TYPE_BITS: u32 = 6;
/// As nft keeps it, without which it can't show names: the machine's.
const NAMES_BYTE_ORDER: u32 = 1;
/// `IFNAMSIZ`
pub(super) const NAME_LENGTH: usize = 16;

/// A set's key and value: the types and byte lengths of their parts, and the set's flags.
struct Form {
    flags: u32,
    key: &'static [(u32, u32)],
    value: &'static [(u32, u32)],
}

fn form(set: Set) -> Form {
    const NAME: (u32, u32) = (TYPE_NAME, 16);
    const IPV4: (u32, u32) = (TYPE_IPV4, 4);
    const PROTOCOL: (u32, u32) = (TYPE_PROTOCOL, 1);
    const SERVICE: (u32, u32) = (TYPE_SERVICE, 2);
    let (flags, key, value): (_, &[_], &[_]) = match set {
        Set::Addresses => (0, &[NAME, IPV4], &[]),
        Set::Egress => (0, &[NAME], &[]),
        Set::Allow => (INTERVAL | CONCATENATED, &[NAME, IPV4], &[]),
        Set::AllowPort => (INTERVAL | CONCATENATED, &[NAME, IPV4, PROTOCOL, SERVICE], &[]),
        Set::Protected => (INTERVAL, &[IPV4], &[]),
        Set::Ports => (MAP, &[PROTOCOL, SERVICE], &[IPV4, SERVICE]),
    };
    Form { flags, key, value }
}

/// One transaction. The answer tells of the last message and of each one refused; message `n` is request `n + 1`.
pub(super) fn transaction(messages: &[Message]) -> Vec<Request> {
    let edge = |kind| Request {
        kind,
        flags: 0,
        // Family unspecified, version 0; whose transaction it is.
        body: [&[0, 0][..], &NFTABLES.to_be_bytes()].concat(),
    };
    let mut requests = vec![edge(BATCH_BEGIN)];
    requests.extend(messages.iter().enumerate().map(|(number, m)| message(m, number)));
    if let Some(last) = requests.last_mut().filter(|_| !messages.is_empty()) {
        last.flags |= ACK;
    }
    requests.push(edge(BATCH_END));
    requests
}

pub(super) fn request(kind: u16, flags: u16, write: impl FnOnce(&mut Writer)) -> Request {
    let mut writer = Writer::behind(&[INET, 0, 0, 0]);
    write(&mut writer);
    Request {
        kind: NFTABLES << 8 | kind,
        flags,
        body: writer.finish(),
    }
}

/// `number` is unique in the transaction.
fn message(message: &Message, number: usize) -> Request {
    match message {
        Message::Table(hold) => request(NEW_TABLE, CREATE, |w| {
            w.put_str(1, TABLE);
            w.put_u32(
                2,
                match hold {
                    Hold::Shared => 0,
                    Hold::Exclusive => TABLE_OWNER | TABLE_PERSIST,
                },
            );
        }),
        Message::RemoveTable => request(DELETE_TABLE, 0, |w| w.put_str(1, TABLE)),
        Message::Set(set) => request(NEW_SET, CREATE, |w| write_set(w, *set, number)),
        Message::Chain(chain) => request(NEW_CHAIN, CREATE, |w| write_chain(w, *chain)),
        Message::FlushSet(set) => request(DELETE_ELEMENT, 0, |w| {
            w.put_str(1, TABLE);
            w.put_str(2, set.name());
        }),
        Message::FlushChain(chain) => request(DELETE_RULE, 0, |w| {
            w.put_str(1, TABLE);
            w.put_str(2, chain.name());
        }),
        Message::Rule(chain, rule) => request(NEW_RULE, CREATE | APPEND, |w| {
            w.put_str(1, TABLE);
            w.put_str(2, chain.name());
            w.nest(4, |list| rule.iter().for_each(|e| write_expression(list, e)));
        }),
        Message::Add(element) => request(NEW_ELEMENT, CREATE | EXCL, |w| write_element(w, element)),
        Message::Remove(element) => request(DELETE_ELEMENT, 0, |w| write_element(w, element)),
    }
}

fn write_set(w: &mut Writer, set: Set, number: usize) {
    let form = form(set);
    let joined = |parts: &[(u32, u32)]| parts.iter().fold(0, |sum, (kind, _)| sum << TYPE_BITS | kind);
    let length = |parts: &[(u32, u32)]| parts.iter().map(|(_, length)| length.next_multiple_of(4)).sum();
    w.put_str(1, TABLE);
    w.put_str(2, set.name());
    w.put_u32(3, form.flags);
    w.put_u32(4, joined(form.key));
    w.put_u32(5, length(form.key));
    if form.flags & MAP != 0 {
        w.put_u32(6, joined(form.value));
        w.put_u32(7, length(form.value));
    }
    w.put_u32(10, u32::try_from(number).unwrap_or(u32::MAX));
    if form.key.len() == 1 && form.key[0].0 == TYPE_NAME {
        w.put(13, &[[0, 4].as_slice(), &NAMES_BYTE_ORDER.to_ne_bytes()].concat());
    }
    if form.flags & CONCATENATED != 0 {
        w.nest(9, |description| {
            description.nest(2, |parts| {
                for (_, length) in form.key {
                    parts.nest(1, |part| part.put_u32(1, *length));
                }
            });
        });
    }
}

fn write_chain(w: &mut Writer, chain: Chain) {
    w.put_str(1, TABLE);
    w.put_str(3, chain.name());
    if let Some(hook) = chain.hook() {
        w.nest(4, |h| {
            h.put_u32(1, hook.number);
            h.put(2, &hook.priority.to_be_bytes());
        });
        // Others' packets pass; those of sandboxes end at a rule.
        w.put_u32(5, NF_ACCEPT);
        w.put_str(7, hook.kind);
    }
}

fn write_element(w: &mut Writer, element: &Element) {
    w.put_str(1, TABLE);
    w.put_str(2, element.set().name());
    w.nest(3, |list| match element {
        Element::Address { link, ip } => write_member(list, &[name(*link), address(*ip)].concat(), |_| {}),
        Element::Egress { link } => write_member(list, &name(*link), |_| {}),
        Element::Allow { link, block } => write_range(list, *block, |ip| [name(*link), address(ip)].concat()),
        Element::AllowPort {
            link,
            block,
            protocol,
            port,
        } => write_range(list, *block, |ip| {
            [name(*link), address(ip), number(*protocol), service(*port)].concat()
        }),
        Element::Protected { block } => {
            write_member(list, &address(block.first), |_| {});
            // Ends before this one; a block up to the last address has no end.
            if let Some(end) = u32::from(block.last).checked_add(1) {
                write_member(list, &end.to_be_bytes(), |m| m.put_u32(3, INTERVAL_END));
            }
        }
        Element::Port {
            link,
            protocol,
            host_port,
            ip,
            container_port,
        } => write_member(list, &[number(*protocol), service(*host_port)].concat(), |m| {
            m.nest(2, |data| {
                data.put(1, &[address(*ip), service(*container_port)].concat())
            });
            m.put(6, &comment(*link));
        }),
    });
}

fn write_member(list: &mut Writer, key: &[u8], more: impl FnOnce(&mut Writer)) {
    list.nest(1, |member| {
        member.nest(1, |data| data.put(1, key));
        more(member);
    });
}

fn write_range(list: &mut Writer, block: Block, key: impl Fn(Ipv4Addr) -> Vec<u8>) {
    write_member(list, &key(block.first), |member| {
        member.nest(10, |data| data.put(1, &key(block.last)));
    });
}

pub(super) fn name(link: LinkName) -> Vec<u8> {
    let mut bytes = link.to_string().into_bytes();
    bytes.resize(NAME_LENGTH, 0);
    bytes
}

/// As nft keeps a comment: type 0, length, text with its NUL.
fn comment(link: LinkName) -> Vec<u8> {
    let text = link.to_string();
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[0, length], text.as_bytes(), &[0]].concat()
}

fn address(ip: Ipv4Addr) -> Vec<u8> {
    ip.octets().to_vec()
}

pub(super) fn number(protocol: Protocol) -> Vec<u8> {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    vec![number, 0, 0, 0]
}

fn service(port: u16) -> Vec<u8> {
    [port.to_be_bytes(), [0; 2]].concat()
}

/// `NFT_REG32_00` and on.
fn register(register: Register) -> u32 {
    8 + u32::from(register.0)
}

fn write_expression(list: &mut Writer, expression: &Expression) {
    let (name, data) = expression_data(expression);
    list.nest(1, |e| {
        e.put_str(1, name);
        e.nest(2, |d| data.iter().for_each(|part| part.write(d)));
    });
}

/// An attribute of an expression.
enum Part {
    Number(u16, u32),
    /// Nested as data.
    Bytes(u16, Vec<u8>),
    Text(u16, &'static str),
    Verdict(u16, Verdict),
}

impl Part {
    fn write(&self, w: &mut Writer) {
        match self {
            Self::Number(kind, value) => w.put_u32(*kind, *value),
            Self::Bytes(kind, bytes) => w.nest(*kind, |data| data.put(1, bytes)),
            Self::Text(kind, text) => w.put_str(*kind, text),
            Self::Verdict(kind, verdict) => w.nest(*kind, |data| {
                data.nest(2, |v| match verdict {
                    Verdict::Accept => v.put_u32(1, NF_ACCEPT),
                    Verdict::Drop => v.put_u32(1, NF_DROP),
                    Verdict::Goto(chain) => {
                        v.put(1, &NFT_GOTO.to_be_bytes());
                        v.put_str(2, chain.name());
                    }
                });
            }),
        }
    }
}

fn expression_data(expression: &Expression) -> (&'static str, Vec<Part>) {
    use Part::{Bytes, Number, Text};
    match expression {
        Expression::Load(meta, into) => {
            let key = match meta {
                Meta::InputName => 6,
                Meta::OutputName => 7,
                Meta::Family => 15,
                Meta::Protocol => 16,
            };
            ("meta", vec![Number(1, register(*into)), Number(2, key)])
        }
        Expression::Payload {
            base,
            offset,
            length,
            into,
        } => {
            let base = match base {
                Base::Network => 1,
                Base::Transport => 2,
            };
            let offset = Number(3, u32::from(*offset));
            let length = Number(4, u32::from(*length));
            (
                "payload",
                vec![Number(1, register(*into)), Number(2, base), offset, length],
            )
        }
        Expression::Track(what, into) => {
            let key = match what {
                Tracked::State => 0,
                Tracked::Status => 2,
            };
            ("ct", vec![Number(1, register(*into)), Number(2, key)])
        }
        Expression::Mask(in_place, mask) => {
            let (source, target) = (Number(1, register(*in_place)), Number(2, register(*in_place)));
            let mask = Bytes(4, mask.to_ne_bytes().to_vec());
            (
                "bitwise",
                vec![source, target, Number(3, 4), mask, Bytes(5, vec![0; 4])],
            )
        }
        Expression::Compare {
            register: with,
            equal,
            with: bytes,
        } => {
            let operator = Number(2, u32::from(!equal));
            (
                "cmp",
                vec![Number(1, register(*with)), operator, Bytes(3, bytes.clone())],
            )
        }
        Expression::DestinationKind(into) => {
            // The type of the destination address: NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR.
            (
                "fib",
                vec![Number(1, register(*into)), Number(2, 3), Number(3, 2)],
            )
        }
        Expression::Lookup { set, key, into } => {
            let mut data = vec![Text(1, set.name()), Number(2, register(*key))];
            data.extend(into.map(|into| Number(3, register(into))));
            ("lookup", data)
        }
        // Register 0 is the verdict.
        Expression::Verdict(verdict) => ("immediate", vec![Number(1, 0), Part::Verdict(2, *verdict)]),
        Expression::DestinationNat { address, port } => {
            let (kind, family) = (Number(1, 1), Number(2, NFPROTO_IPV4));
            let to = [Number(3, register(*address)), Number(5, register(*port))];
            ("nat", [kind, family].into_iter().chain(to).collect())
        }
        Expression::Masquerade => ("masq", Vec::new()),
    }
}

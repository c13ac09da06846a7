//! The table's chains and rules: the same on every node, whatever runs on it. Pure.
//!
//! A packet from or to a sandbox passes only where a rule here, or an element that a rule looks up, says so.
//! All rules begin with a link's name: packets of others pass untouched. There is no rule per sandbox.

use super::element::Set;
use super::expression::{Base, Expression, Meta, Register, Tracked, Verdict};
use crate::runtime::network::PREFIX;

/// In family `inet`: one table for IPv4 and IPv6.
pub const TABLE: &str = "sandboxd";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chain {
    /// Drops forged sources, before connection tracking spends memory on them.
    Source,
    /// Published ports, for packets from outside.
    Publish,
    /// Published ports, for the node's own processes.
    PublishLocal,
    /// What the node forwards.
    Forward,
    FromSandbox,
    ToSandbox,
    /// What is for the node itself.
    Input,
    /// Drops what is for another than the link's own address.
    Destination,
    Masquerade,
}

/// Where a chain is called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`
    pub kind: &'static str,
    /// `NF_INET_*`
    pub number: u32,
    /// Lower comes first.
    pub priority: i32,
}

const PREROUTING: u32 = 0;
const LOCAL_IN: u32 = 1;
const FORWARD: u32 = 2;
const LOCAL_OUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// `NF_IP_PRI_*` of linux/netfilter_ipv4.h
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

const KEY: Register = Register(0);
/// Behind a link's name, which has 16 bytes.
const BEHIND_NAME: Register = Register(4);

const IPV4: u8 = 2;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
/// `NF_CT_STATE_BIT` of established and related
const ESTABLISHED_OR_RELATED: u32 = 0b110;
/// `IPS_DST_NAT`
const DESTINATION_TRANSLATED: u32 = 1 << 5;
const LOOPBACK_NET: u8 = 127;

impl Chain {
    /// Those that others go to come first.
    pub const ALL: [Self; 9] = [
        Self::FromSandbox,
        Self::ToSandbox,
        Self::Source,
        Self::Publish,
        Self::PublishLocal,
        Self::Forward,
        Self::Input,
        Self::Destination,
        Self::Masquerade,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Publish => "publish",
            Self::PublishLocal => "publish_local",
            Self::Forward => "forward",
            Self::FromSandbox => "from_sandbox",
            Self::ToSandbox => "to_sandbox",
            Self::Input => "input",
            Self::Destination => "destination",
            Self::Masquerade => "masquerade_sandboxes",
        }
    }

    /// `None`: other chains go to it.
    #[must_use]
    pub fn hook(self) -> Option<Hook> {
        let (kind, number, priority) = match self {
            Self::Source => ("filter", PREROUTING, RAW),
            Self::Publish => ("nat", PREROUTING, DSTNAT),
            Self::PublishLocal => ("nat", LOCAL_OUT, DSTNAT),
            Self::Forward => ("filter", FORWARD, FILTER),
            Self::FromSandbox | Self::ToSandbox => return None,
            Self::Input => ("filter", LOCAL_IN, FILTER),
            Self::Destination => ("filter", POSTROUTING, FILTER),
            Self::Masquerade => ("nat", POSTROUTING, SRCNAT),
        };
        Some(Hook {
            kind,
            number,
            priority,
        })
    }

    /// Its rules, in order.
    #[must_use]
    pub fn rules(self) -> Vec<Vec<Expression>> {
        let accept = || vec![Expression::Verdict(Verdict::Accept)];
        let drop = || vec![Expression::Verdict(Verdict::Drop)];
        let goto = |chain| vec![Expression::Verdict(Verdict::Goto(chain))];
        match self {
            Self::Source => vec![
                rule([
                    from_sandbox(true),
                    ipv4(),
                    in_set(Set::Addresses, link_and_source()),
                    accept(),
                ]),
                rule([from_sandbox(true), drop()]),
            ],
            Self::Publish => vec![rule([from_sandbox(false), ipv4(), published()])],
            Self::PublishLocal => vec![rule([ipv4(), published()])],
            Self::Forward => vec![
                rule([from_sandbox(true), goto(Self::FromSandbox)]),
                rule([to_sandbox(true), goto(Self::ToSandbox)]),
            ],
            Self::FromSandbox => vec![
                // First: not even an answer passes between sandboxes.
                rule([to_sandbox(true), drop()]),
                rule([tracked(Tracked::State, ESTABLISHED_OR_RELATED), accept()]),
                rule([ipv4(), in_set(Set::Protected, destination(KEY)), drop()]),
                rule([
                    ipv4(),
                    in_set(Set::Egress, vec![load(Meta::InputName, KEY)]),
                    accept(),
                ]),
                rule([ipv4(), in_set(Set::Allow, link_and_destination()), accept()]),
                rule([
                    ipv4(),
                    in_set(Set::AllowPort, link_destination_and_port()),
                    accept(),
                ]),
                rule([drop()]),
            ],
            Self::ToSandbox => vec![
                rule([tracked(Tracked::State, ESTABLISHED_OR_RELATED), accept()]),
                // By a published port, never by the private address.
                rule([tracked(Tracked::Status, DESTINATION_TRANSLATED), accept()]),
                rule([drop()]),
            ],
            Self::Input => vec![
                // Answers to the node's own probes and to its use of published ports.
                rule([
                    from_sandbox(true),
                    tracked(Tracked::State, ESTABLISHED_OR_RELATED),
                    accept(),
                ]),
                rule([from_sandbox(true), drop()]),
            ],
            Self::Destination => vec![
                rule([
                    to_sandbox(true),
                    ipv4(),
                    in_set(
                        Set::Addresses,
                        [vec![load(Meta::OutputName, KEY)], destination(BEHIND_NAME)].concat(),
                    ),
                    accept(),
                ]),
                rule([to_sandbox(true), drop()]),
            ],
            Self::Masquerade => vec![
                rule([
                    from_sandbox(true),
                    to_sandbox(false),
                    vec![Expression::Masquerade],
                ]),
                // The node's own processes that use a published port on 127.0.0.1: no answer would find back.
                rule([
                    to_sandbox(true),
                    ipv4(),
                    from_loopback(),
                    vec![Expression::Masquerade],
                ]),
            ],
        }
    }
}

fn rule<const N: usize>(parts: [Vec<Expression>; N]) -> Vec<Expression> {
    parts.concat()
}

fn load(meta: Meta, into: Register) -> Expression {
    Expression::Load(meta, into)
}

fn compare(register: Register, equal: bool, with: &[u8]) -> Expression {
    Expression::Compare {
        register,
        equal,
        with: with.to_vec(),
    }
}

fn from_sandbox(is: bool) -> Vec<Expression> {
    vec![load(Meta::InputName, KEY), compare(KEY, is, PREFIX.as_bytes())]
}

fn to_sandbox(is: bool) -> Vec<Expression> {
    vec![load(Meta::OutputName, KEY), compare(KEY, is, PREFIX.as_bytes())]
}

fn ipv4() -> Vec<Expression> {
    vec![load(Meta::Family, KEY), compare(KEY, true, &[IPV4])]
}

/// One of the bits is set.
fn tracked(what: Tracked, bits: u32) -> Vec<Expression> {
    vec![
        Expression::Track(what, KEY),
        Expression::Mask(KEY, bits),
        compare(KEY, false, &[0; 4]),
    ]
}

fn in_set(set: Set, key: Vec<Expression>) -> Vec<Expression> {
    let lookup = Expression::Lookup {
        set,
        key: KEY,
        into: None,
    };
    [key, vec![lookup]].concat()
}

fn address(offset: u8, into: Register) -> Expression {
    Expression::Payload {
        base: Base::Network,
        offset,
        length: 4,
        into,
    }
}

fn destination(into: Register) -> Vec<Expression> {
    vec![address(16, into)]
}

fn destination_port(into: Register) -> Expression {
    Expression::Payload {
        base: Base::Transport,
        offset: 2,
        length: 2,
        into,
    }
}

fn link_and_source() -> Vec<Expression> {
    vec![load(Meta::InputName, KEY), address(12, BEHIND_NAME)]
}

fn link_and_destination() -> Vec<Expression> {
    [vec![load(Meta::InputName, KEY)], destination(BEHIND_NAME)].concat()
}

fn link_destination_and_port() -> Vec<Expression> {
    let port = [load(Meta::Protocol, Register(5)), destination_port(Register(6))];
    [link_and_destination(), port.to_vec()].concat()
}

fn from_loopback() -> Vec<Expression> {
    let first_byte = Expression::Payload {
        base: Base::Network,
        offset: 12,
        length: 1,
        into: KEY,
    };
    vec![first_byte, compare(KEY, true, &[LOOPBACK_NET])]
}

/// To one of the node's own addresses, and a port that is published.
fn published() -> Vec<Expression> {
    vec![
        Expression::DestinationKind(KEY),
        compare(KEY, true, &LOCAL.to_ne_bytes()),
        load(Meta::Protocol, KEY),
        destination_port(Register(1)),
        Expression::Lookup {
            set: Set::Ports,
            key: KEY,
            into: Some(KEY),
        },
        Expression::DestinationNat {
            address: KEY,
            port: Register(1),
        },
    ]
}

//! The instructions of nftables' rules, as far as the table needs them. Pure.

use super::element::Set;
use super::layout::Chain;

/// A register of 4 bytes, counted from the first: key and value of a lookup stand in consecutive ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    InputName,
    OutputName,
    /// 2: IPv4, 10: IPv6.
    Family,
    /// 6: tcp, 17: udp.
    Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Network,
    Transport,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracked {
    State,
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Goto(Chain),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    Load(Meta, Register),
    /// Bytes of the packet.
    Payload {
        base: Base,
        offset: u8,
        length: u8,
        into: Register,
    },
    /// What connection tracking knows.
    Track(Tracked, Register),
    Mask(Register, u32),
    /// The rule goes on where the register begins with the bytes, or, inverted, where it does not.
    Compare {
        register: Register,
        equal: bool,
        with: Vec<u8>,
    },
    /// What kind of address the destination is to the node: 2 is its own (`RTN_LOCAL`).
    DestinationKind(Register),
    /// The rule goes on where the key is in the set; a map's value is put into `into`.
    Lookup {
        set: Set,
        key: Register,
        into: Option<Register>,
    },
    Verdict(Verdict),
    /// To the address and port in the registers.
    DestinationNat {
        address: Register,
        port: Register,
    },
    Masquerade,
}

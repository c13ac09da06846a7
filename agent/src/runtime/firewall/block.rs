//! Blocks of IPv4 addresses, and how many of them become few without an overlap: the kernel's interval sets
//! refuse members that overlap.

use proto::spec::Cidr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// From the first to the last address, both in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

impl Block {
    /// `None`: the addresses are IPv6, which sandboxes don't have.
    #[must_use]
    pub fn of(cidr: Cidr) -> Option<Self> {
        let IpAddr::V4(address) = cidr.address else {
            return None;
        };
        let hosts = u32::MAX.checked_shr(u32::from(cidr.prefix)).unwrap_or(0);
        Some(Self {
            first: Ipv4Addr::from(u32::from(address) & !hosts),
            last: Ipv4Addr::from(u32::from(address) | hosts),
        })
    }

    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last
    }
}

/// As `nft` spells it: `10.0.0.0/8`, `10.0.0.1`, or `10.0.0.0-10.0.0.5` where it is not a single CIDR.
impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (u32::from(self.first), u32::from(self.last));
        let prefix = (first ^ last).leading_zeros();
        let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
        if first == last {
            write!(f, "{}", self.first)
        } else if first & hosts == 0 && last & hosts == hosts {
            write!(f, "{}/{prefix}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// The same addresses in the fewest blocks, in order.
#[must_use]
pub fn merge(blocks: impl IntoIterator<Item = Block>) -> Vec<Block> {
    let mut sorted: Vec<Block> = blocks.into_iter().collect();
    sorted.sort_unstable();
    let mut merged: Vec<Block> = Vec::with_capacity(sorted.len());
    for block in sorted {
        match merged.last_mut() {
            Some(before) if u32::from(block.first) <= u32::from(before.last).saturating_add(1) => {
                before.last = before.last.max(block.last);
            }
            Some(_) | None => merged.push(block),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(cidr: &str) -> Block {
        let (address, prefix) = cidr.split_once('/').expect("a CIDR");
        Block::of(Cidr {
            address: address.parse().expect("an address"),
            prefix: prefix.parse().expect("a prefix"),
        })
        .expect("IPv4")
    }

    #[track_caller]
    fn check(cidrs: &[&str], want: &[&str]) {
        let merged = merge(cidrs.iter().map(|cidr| block(cidr)));
        let texts: Vec<String> = merged.iter().map(ToString::to_string).collect();
        assert_eq!(texts, want);
    }

    #[test]
    fn nested_equal_and_adjacent_blocks_become_one() {
        check(&[], &[]);
        check(&["10.1.0.0/16", "10.0.0.0/8", "10.1.0.0/16"], &["10.0.0.0/8"]);
        check(&["10.0.0.0/9", "10.128.0.0/9"], &["10.0.0.0/8"]);
        check(&["10.0.0.0/31", "10.0.0.2/32"], &["10.0.0.0-10.0.0.2"]);
        check(
            &["192.168.1.1/32", "10.0.0.0/24"],
            &["10.0.0.0/24", "192.168.1.1"],
        );
        check(&["0.0.0.0/0", "255.255.255.255/32"], &["0.0.0.0/0"]);
        check(
            &["255.255.255.255/32", "255.255.255.254/32"],
            &["255.255.255.254/31"],
        );
    }

    #[test]
    fn ipv6_is_no_block() {
        let cidr = Cidr {
            address: "fd00::".parse().expect("an address"),
            prefix: 8,
        };
        assert_eq!(Block::of(cidr), None);
    }
}

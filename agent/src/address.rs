//! The addresses of sandboxes: one each from the node's private block. Owns who has which, in memory; the
//! sandboxes' own records tell it after a restart. Called by `observe` and `execute`.

use crate::config::Subnet;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// At the beginning of the block: the network's own, and one for the node's end.
const RESERVED_FIRST: u32 = 2;
/// At its end: the one that would be a broadcast elsewhere.
const RESERVED_LAST: u32 = 1;

/// Every address is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "all {0} addresses of this node's sandboxes are taken; delete ended sandboxes, or give the agent a larger \
     --sandbox-cidr"
)]
pub struct Exhausted(u32);

/// Shared by all sandboxes.
#[derive(Debug)]
pub struct Addresses {
    first: u32,
    count: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: BTreeSet<u32>,
    /// Offset of the one to try next.
    next: u32,
}

impl Addresses {
    #[must_use]
    pub fn new(subnet: Subnet) -> Self {
        let size = 1u32 << (32 - u32::from(subnet.prefix));
        Self {
            first: u32::from(subnet.address) + RESERVED_FIRST,
            count: size - RESERVED_FIRST - RESERVED_LAST,
            state: Mutex::default(),
        }
    }

    /// One that nobody has. Each is given only after all others were: a connection that was cut off meets nobody
    /// who took the address over.
    ///
    /// # Errors
    /// [`Exhausted`]
    pub fn take(&self) -> Result<Ipv4Addr, Exhausted> {
        let mut state = self.lock();
        let begin = state.next;
        let offsets = (begin..self.count).chain(0..begin);
        let free = offsets.map(|offset| (offset, self.first + offset));
        let found = free
            .into_iter()
            .find(|(_, address)| !state.taken.contains(address));
        let (offset, address) = found.ok_or(Exhausted(self.count))?;
        state.taken.insert(address);
        state.next = (offset + 1) % self.count;
        Ok(Ipv4Addr::from(address))
    }

    /// Notes that a sandbox has the address already. One of another block than today's is noted too.
    pub fn keep(&self, address: Ipv4Addr) {
        let mut state = self.lock();
        let number = u32::from(address);
        state.taken.insert(number);
        if let Some(offset) = number.checked_sub(self.first).filter(|o| *o < self.count) {
            state.next = state.next.max((offset + 1) % self.count);
        }
    }

    pub fn give_back(&self, address: Ipv4Addr) {
        self.lock().taken.remove(&u32::from(address));
    }

    /// A panic while the lock was held leaves a whole set.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses::new(Subnet {
            address: Ipv4Addr::new(10, 89, 0, 0),
            prefix: 28,
        })
    }

    fn take(addresses: &Addresses) -> u8 {
        addresses.take().expect("one is free").octets()[3]
    }

    #[test]
    fn every_address_but_the_reserved_is_given_once_and_then_there_is_none() {
        let addresses = addresses();
        let all: Vec<u8> = (0..13).map(|_| take(&addresses)).collect();
        assert_eq!(all, (2..=14).collect::<Vec<_>>());
        assert_eq!(addresses.take(), Err(Exhausted(13)));
        addresses.give_back(Ipv4Addr::new(10, 89, 0, 7));
        assert_eq!(take(&addresses), 7);
    }

    #[test]
    fn address_given_back_is_the_last_to_be_given_again() {
        let addresses = addresses();
        let first = take(&addresses);
        addresses.give_back(Ipv4Addr::new(10, 89, 0, first));
        let others: Vec<u8> = (0..12).map(|_| take(&addresses)).collect();
        assert!(!others.contains(&first));
        assert_eq!(take(&addresses), first);
    }

    #[test]
    fn kept_address_is_not_given_also_one_of_a_former_block() {
        let addresses = addresses();
        addresses.keep(Ipv4Addr::new(10, 89, 0, 3));
        addresses.keep(Ipv4Addr::new(10, 1, 0, 3));
        let given: Vec<u8> = (0..12).map(|_| take(&addresses)).collect();
        assert!(!given.contains(&3));
        assert_eq!(given[0], 4);
    }
}

//! The host ports of one node: which are taken, and a free one at random, so that strangers can't guess what the
//! next sandbox gets.

use super::score;
use crate::state::placement::HOST_PORTS;
use proto::spec::Protocol;
use rand::Rng;
use std::collections::HashSet;

/// Tries before free ports are counted: with half of the range taken, the chance to need more is one in 65,536.
const TRIES: usize = 16;

/// Tcp and udp apart. The order within is never seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Ports {
    tcp: HashSet<u16>,
    udp: HashSet<u16>,
}

impl Ports {
    pub(super) fn take(&mut self, protocol: Protocol, port: u16) {
        self.of(protocol).insert(port);
    }

    pub(super) fn release(&mut self, protocol: Protocol, port: u16) {
        self.of(protocol).remove(&port);
    }

    /// Takes a free port; `None` where there is none.
    pub(super) fn choose(&mut self, protocol: Protocol, random: &mut impl Rng) -> Option<u16> {
        let taken = self.of(protocol);
        let mut tries = (0..TRIES).map(|_| random.random_range(HOST_PORTS));
        let port = tries.find(|port| !taken.contains(port)).or_else(|| {
            let from = random.random_range(HOST_PORTS);
            let ahead = (from..=*HOST_PORTS.end()).chain(*HOST_PORTS.start()..from);
            let mut ahead = ahead;
            ahead.find(|port| !taken.contains(port))
        })?;
        taken.insert(port);
        Some(port)
    }

    pub(super) fn free(&self, protocol: Protocol) -> usize {
        let taken = match protocol {
            Protocol::Tcp => self.tcp.len(),
            Protocol::Udp => self.udp.len(),
        };
        HOST_PORTS.len().saturating_sub(taken)
    }

    /// Of the protocol that has fewer left, in millionths of the range.
    pub(super) fn free_share(&self) -> u64 {
        let free = self.free(Protocol::Tcp).min(self.free(Protocol::Udp));
        score::share(free as u64, HOST_PORTS.len() as u64)
    }

    fn of(&mut self, protocol: Protocol) -> &mut HashSet<u16> {
        match protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
        }
    }
}

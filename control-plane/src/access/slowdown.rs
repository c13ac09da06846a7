//! Answers to those who guess: late, and ever later. Owns the count of failed attempts per source; what was right is
//! never slowed down, so that one who guesses behind the same address keeps nobody out. Bounded in sources and in
//! answers that wait.

use super::Denied;
use crate::clock;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures that are answered at once: a person who mistypes, a script with yesterday's token.
const FREE: u32 = 5;
/// From then on each answer waits twice as long as the one before.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Answers that wait for one source; more attempts at one time are no person's.
const MAX_WAITING: u32 = 8;
/// Without a failure for so long, a source begins anew.
const FORGIVEN: Duration = Duration::from_secs(120);
/// Sources that are remembered, some 100 bytes each. The longest silent makes room.
const MAX_SOURCES: usize = 16_384;

/// Who has failed how often. Clones share.
#[derive(Debug, Clone, Default)]
pub(super) struct Slowdown(Arc<Mutex<HashMap<IpAddr, Failures>>>);

#[derive(Debug)]
struct Failures {
    count: u32,
    waiting: u32,
    last: Instant,
}

impl Slowdown {
    /// Notes a failure, and returns when it may be answered.
    ///
    /// # Errors
    /// [`Denied::TooMany`], at once, where too many answers wait already.
    pub(super) async fn failed(&self, address: IpAddr) -> Result<(), Denied> {
        let source = source(address);
        let delay = self.note(source, clock::instant());
        match delay {
            Some(delay) if delay.is_zero() => Ok(()),
            Some(delay) => {
                let _waiting = Waiting {
                    slowdown: self,
                    source,
                };
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => Err(Denied::TooMany {
                source_address: address.to_string(),
                retry_after: LONGEST_DELAY,
            }),
        }
    }

    /// How long its answer waits, counted as waiting where it does; `None`: too many do.
    fn note(&self, source: IpAddr, now: Instant) -> Option<Duration> {
        let mut sources = self.lock();
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            make_room(&mut sources, now);
        }
        let failures = sources.entry(source).or_insert(Failures {
            count: 0,
            waiting: 0,
            last: now,
        });
        if now.duration_since(failures.last) >= FORGIVEN {
            failures.count = 0;
        }
        failures.last = now;
        failures.count = failures.count.saturating_add(1);
        if failures.count <= FREE {
            return Some(Duration::ZERO);
        }
        if failures.waiting >= MAX_WAITING {
            return None;
        }
        failures.waiting += 1;
        let doublings = (failures.count - FREE - 1).min(16);
        Some(FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that waits; whoever gives up waiting is counted out as well.
struct Waiting<'a> {
    slowdown: &'a Slowdown,
    source: IpAddr,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(failures) = self.slowdown.lock().get_mut(&self.source) {
            failures.waiting = failures.waiting.saturating_sub(1);
        }
    }
}

fn make_room(sources: &mut HashMap<IpAddr, Failures>, now: Instant) {
    sources.retain(|_, failures| failures.waiting > 0 || now.duration_since(failures.last) < FORGIVEN);
    if sources.len() >= MAX_SOURCES {
        let idle = sources.iter().filter(|(_, failures)| failures.waiting == 0);
        if let Some(oldest) = idle.min_by_key(|(_, failures)| failures.last).map(|(ip, _)| *ip) {
            sources.remove(&oldest);
        }
    }
}

/// An IPv6 host has a /64 of addresses to guess from.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(slowdown: &Slowdown, address: &str, at: Instant) -> Option<u128> {
        let source = source(address.parse().expect("an address"));
        slowdown.note(source, at).map(|delay| delay.as_millis())
    }

    #[test]
    fn delays_double_to_their_bound_and_end_in_refusals() {
        let slowdown = Slowdown::default();
        let now = clock::instant();
        let delays: Vec<_> = (0..14).map(|_| millis(&slowdown, "10.0.0.1", now)).collect();
        let free = [Some(0); FREE as usize];
        let slow = [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000].map(Some);
        assert_eq!(delays, [&free[..], &slow[..], &[None]].concat());
        assert_eq!(
            millis(&slowdown, "10.0.0.2", now),
            Some(0),
            "others are not slowed down"
        );
    }

    #[test]
    fn source_that_was_silent_begins_anew() {
        let slowdown = Slowdown::default();
        let now = clock::instant();
        for _ in 0..10 {
            millis(&slowdown, "10.0.0.1", now);
        }
        assert_eq!(millis(&slowdown, "10.0.0.1", now + FORGIVEN), Some(0));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let slowdown = Slowdown::default();
        let now = clock::instant();
        for host in 0..FREE {
            millis(&slowdown, &format!("2001:db8::{host:x}"), now);
        }
        assert_eq!(millis(&slowdown, "2001:db8::ffff", now), Some(100));
        assert_eq!(millis(&slowdown, "2001:db8:0:1::1", now), Some(0));
    }

    #[test]
    fn sources_are_bounded() {
        let slowdown = Slowdown::default();
        let now = clock::instant();
        for host in 0..u32::try_from(MAX_SOURCES).expect("small") + 10 {
            slowdown.note(IpAddr::V4(host.into()), now);
        }
        assert_eq!(slowdown.lock().len(), MAX_SOURCES);
    }
}

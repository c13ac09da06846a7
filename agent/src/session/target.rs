//! Which replica is tried next. Pure, but for nothing: neither clock nor network.
//!
//! Every replica that is known is tried once per round, whoever was named as the leader first. A round without
//! a leader is followed by a pause, which grows: an election takes some hundred milliseconds.

use std::collections::BTreeSet;
use std::time::Duration;

/// After the first round without a leader.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Agents try again at least this often, so that they come back within a second of any repair.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Targets {
    /// From the configuration; never forgotten.
    given: Vec<String>,
    /// What the last leader has told in addition.
    learned: Vec<String>,
    /// Somebody has said that this one leads.
    hint: Option<String>,
    /// Is tried last: it has just been lost.
    last: Option<String>,
    tried: BTreeSet<String>,
    rounds: u32,
}

impl Targets {
    /// `given` has at least one.
    pub(super) fn new(given: Vec<String>) -> Self {
        Self {
            given,
            learned: Vec::new(),
            hint: None,
            last: None,
            tried: BTreeSet::new(),
            rounds: 0,
        }
    }

    /// The one to try now.
    pub(super) fn next(&mut self) -> String {
        if let Some(hint) = self.hint.take() {
            return hint;
        }
        let all = self.given.iter().chain(&self.learned);
        let untried = || all.clone().filter(|t| !self.tried.contains(*t));
        let preferred = untried().find(|t| Some(*t) != self.last.as_ref());
        let next = preferred.or_else(|| untried().next()).or(self.given.first());
        next.cloned().unwrap_or_default()
    }

    /// It leads, and tells of these replicas.
    pub(super) fn connected(&mut self, target: &str, endpoints: &[String]) {
        let new = |e: &&String| !self.given.contains(e);
        self.learned = endpoints.iter().filter(new).cloned().collect();
        if !self.given.iter().any(|t| t == target) && !self.learned.iter().any(|t| t == target) {
            self.learned.push(target.to_owned());
        }
        self.tried.clear();
        self.rounds = 0;
    }

    /// It led, and the connection broke. `turn` is a random number: agents that have lost it at the same moment don't all
    /// come to the same replica first.
    pub(super) fn lost(&mut self, target: &str, turn: u32) {
        let places = turn as usize % self.given.len().max(1);
        self.given.rotate_left(places);
        self.tried.clear();
        self.hint = None;
        self.last = Some(target.to_owned());
    }

    /// It does not lead, but `leader` does as far as it knows. One that was tried in this round is not tried
    /// again at once: two replicas may each take the other for the leader.
    pub(super) fn redirected(&mut self, target: &str, leader: Option<&str>) {
        self.tried.insert(target.to_owned());
        self.hint = leader
            .filter(|leader| !leader.is_empty() && !self.tried.contains(*leader))
            .map(str::to_owned);
    }

    pub(super) fn failed(&mut self, target: &str) {
        self.tried.insert(target.to_owned());
    }

    /// How long to wait before the next attempt at most; `None`: not at all. Begins the next round after it.
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let mut all = self.given.iter().chain(&self.learned);
        if self.hint.is_some() || all.any(|t| !self.tried.contains(t)) {
            return None;
        }
        self.tried.clear();
        self.last = None;
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.rounds.min(8))
            .min(LONGEST_PAUSE);
        self.rounds += 1;
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Targets {
        Targets::new(["a", "b", "c"].map(str::to_owned).to_vec())
    }

    /// All fail: who is tried before the pause.
    fn round(targets: &mut Targets) -> (Vec<String>, Duration) {
        let mut tried = Vec::new();
        loop {
            let target = targets.next();
            targets.failed(&target);
            tried.push(target);
            if let Some(pause) = targets.pause() {
                return (tried, pause);
            }
        }
    }

    #[test]
    fn every_replica_is_tried_once_per_round_and_pauses_grow_to_their_bound() {
        let mut targets = targets();
        let pauses: Vec<u128> = (0..5)
            .map(|_| {
                let (tried, pause) = round(&mut targets);
                assert_eq!(tried, ["a", "b", "c"]);
                pause.as_millis()
            })
            .collect();
        assert_eq!(pauses, [50, 100, 200, 400, 500]);
    }

    #[test]
    fn named_leader_is_tried_at_once_also_one_that_nobody_has_told_of() {
        let mut targets = targets();
        targets.redirected("a", Some("d"));
        assert_eq!(targets.pause(), None);
        assert_eq!(targets.next(), "d");
        targets.connected("d", &[]);
        targets.lost("d", 0);
        assert_eq!(round(&mut targets).0, ["a", "b", "c", "d"]);
    }

    #[test]
    fn two_followers_that_name_each_other_end_in_a_pause() {
        let mut targets = targets();
        targets.redirected("a", Some("b"));
        assert_eq!(targets.next(), "b");
        targets.redirected("b", Some("a"));
        assert_eq!(targets.next(), "c");
        targets.redirected("c", Some(""));
        assert!(targets.pause().is_some());
    }

    #[test]
    fn agents_that_lose_the_leader_together_begin_with_different_replicas() {
        let first = |turn| {
            let mut targets = targets();
            targets.connected("a", &[]);
            targets.lost("a", turn);
            targets.next()
        };
        assert_eq!([0, 1, 2, 3].map(first), ["b", "b", "c", "b"]);
    }

    #[test]
    fn lost_leader_is_tried_last() {
        let mut targets = targets();
        targets.connected("a", &["a".to_owned(), "x".to_owned()]);
        targets.lost("a", 0);
        assert_eq!(round(&mut targets).0, ["b", "c", "x", "a"]);
    }
}

//! Whom to ask next, and how long to wait before. Pure: knows no time and no network. Called by `retry`.

use super::Endpoint;
use std::collections::BTreeSet;
use std::time::Duration;

/// A replica that has not answered for so long is asked no less, but others are asked beside it: it may be frozen or cut
/// off, and they know who leads now. Above what a write takes on a busy cluster, so that a healthy one is not asked
/// twice; below the half second in which the others begin to elect, so that nothing is lost by it.
const HEDGE_AFTER: Duration = Duration::from_millis(400);
/// Where answers take longer than that at present, more requests would only make it worse: twice as long as they take, but
/// no longer than this.
const LONGEST_HEDGE: Duration = Duration::from_secs(1);
/// Of the time for which one replica is waited for alone: before somebody is asked again who has named a leader that has
/// not answered yet. A fraction of an election; grows by a quarter each time, up to [`LONGEST_HEDGE`].
const ASK_AGAIN_PART: u32 = 4;
/// The pause after a round in which no replica could answer; doubles with each round. An election takes
/// some hundred milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How long answers take at present: the longest of late, which counts for less with each shorter one.
#[derive(Debug, Default)]
pub(super) struct Pace(Duration);

impl Pace {
    pub(super) fn answered(&mut self, took: Duration) {
        self.0 = took.max(self.0 * 3 / 4);
    }

    /// How long one replica is waited for alone.
    pub(super) fn patience(&self) -> Duration {
        (self.0 * 2).clamp(HEDGE_AFTER, LONGEST_HEDGE)
    }
}

/// What is done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Ask(Endpoint),
    /// Somebody may answer meanwhile.
    Wait(Duration),
}

/// One pass over the replicas after the other; in each, every replica is asked once at most, and none again that has not
/// answered yet.
#[derive(Debug)]
pub(super) struct Round {
    /// Asked in this pass, or before and not heard of yet.
    tried: BTreeSet<Endpoint>,
    /// Of these, who has not answered.
    under_way: BTreeSet<Endpoint>,
    pause: Duration,
    patience: Duration,
    ask_again: Duration,
}

impl Round {
    /// `patience`: for how long one replica is waited for alone.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            tried: BTreeSet::new(),
            under_way: BTreeSet::new(),
            pause: FIRST_PAUSE,
            patience,
            ask_again: patience / ASK_AGAIN_PART,
        }
    }

    /// `target` is asked.
    pub(super) fn asked(&mut self, target: &Endpoint) {
        self.tried.insert(target.clone());
        self.under_way.insert(target.clone());
    }

    /// Nobody is waited for any more.
    pub(super) fn forget(&mut self) {
        self.tried.clear();
        self.under_way.clear();
    }

    /// `target` has not decided; `named` is who leads, as far as it knows.
    pub(super) fn undecided(
        &mut self,
        target: &Endpoint,
        named: Option<Endpoint>,
        servers: &[Endpoint],
    ) -> Next {
        self.under_way.remove(target);
        match named {
            Some(leader) if self.under_way.contains(&leader) => {
                let pause = self.ask_again;
                self.ask_again = (pause * 5 / 4).min(LONGEST_HEDGE);
                return Next::Wait(pause);
            }
            Some(leader) if !self.tried.contains(&leader) => return Next::Ask(leader),
            Some(_) | None => {}
        }
        match servers.iter().find(|server| !self.tried.contains(server)) {
            Some(server) => Next::Ask(server.clone()),
            None => {
                let pause = self.pause;
                self.pause = (pause * 2).min(LONGEST_PAUSE);
                Next::Wait(pause)
            }
        }
    }

    /// What was waited for has not come. The next pass, where this one is over, begins with `first`.
    pub(super) fn silent(&mut self, first: Endpoint, servers: &[Endpoint]) -> Next {
        if servers.iter().all(|server| self.tried.contains(server)) {
            self.tried.clone_from(&self.under_way);
        }
        let mut candidates = std::iter::once(&first).chain(servers);
        match candidates.find(|server| !self.tried.contains(server)) {
            Some(server) => Next::Ask(server.clone()),
            None => Next::Wait(self.patience),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Endpoint {
        format!("http://{host}:1").parse().expect("an address")
    }

    /// Of three replicas `a`, `b` and `c`, where `a` is asked first.
    struct Story {
        round: Round,
        servers: Vec<Endpoint>,
    }

    impl Story {
        fn begin() -> Self {
            let mut round = Round::new(Pace::default().patience());
            round.asked(&at("a"));
            Self {
                round,
                servers: ["a", "b", "c"].map(at).to_vec(),
            }
        }

        #[track_caller]
        fn then(&mut self, next: Next, expected: &str) {
            match next {
                Next::Ask(target) => {
                    assert_eq!(target, at(expected));
                    self.round.asked(&target);
                }
                Next::Wait(_) => assert_eq!(expected, "wait"),
            }
        }

        /// `host` answers that it does not lead, and names another one, or nobody.
        #[track_caller]
        fn names(&mut self, host: &str, leader: &str, expected: &str) {
            let named = (!leader.is_empty()).then(|| at(leader));
            let next = self.round.undecided(&at(host), named, &self.servers);
            self.then(next, expected);
        }

        #[track_caller]
        fn silence(&mut self, expected: &str) {
            let next = self.round.silent(at("a"), &self.servers);
            self.then(next, expected);
        }
    }

    #[test]
    fn leader_that_is_named_is_asked_at_once_listed_or_not() {
        let mut story = Story::begin();
        story.names("a", "unlisted", "unlisted");
        story.names("unlisted", "c", "c");
    }

    #[test]
    fn replicas_that_know_no_leader_are_each_asked_once_before_a_pause() {
        let mut story = Story::begin();
        story.names("a", "", "b");
        story.names("b", "a", "c");
        story.names("c", "", "wait");
        story.silence("a");
        story.names("a", "", "b");
    }

    #[test]
    fn beside_a_silent_leader_the_others_are_asked_until_they_name_the_next_one() {
        let mut story = Story::begin();
        story.silence("b");
        story.names("b", "a", "wait");
        story.silence("c");
        story.names("c", "a", "wait");
        story.silence("b");
        story.names("b", "c", "c");
    }

    #[test]
    fn others_are_asked_ever_less_often_beside_a_leader_that_is_slow() {
        let servers = [at("a"), at("b")];
        let check = |patience: u64, expected: [u128; 4]| {
            let mut round = Round::new(Duration::from_millis(patience));
            round.asked(&at("a"));
            let pauses = [(); 4].map(|()| {
                round.asked(&at("b"));
                match round.undecided(&at("b"), Some(at("a")), &servers) {
                    Next::Wait(pause) => pause.as_millis(),
                    Next::Ask(target) => panic!("{target} is asked"),
                }
            });
            assert_eq!(pauses, expected);
        };
        check(400, [100, 125, 156, 195]);
        check(1_000, [250, 312, 390, 488]);
    }

    #[test]
    fn nobody_is_asked_twice_at_once() {
        let mut story = Story::begin();
        story.silence("b");
        story.silence("c");
        story.silence("wait");
        story.names("b", "c", "wait");
        story.silence("b");
    }

    #[test]
    fn replica_is_waited_for_longer_where_answers_take_long() {
        let check = |answers: &[u64], patience: u64| {
            let mut pace = Pace::default();
            for answer in answers {
                pace.answered(Duration::from_millis(*answer));
            }
            assert_eq!(pace.patience().as_millis(), u128::from(patience), "{answers:?}");
        };
        check(&[], 400);
        check(&[5, 199], 400);
        check(&[400], 800);
        check(&[5, 400, 5], 600);
        check(&[400, 5, 5, 5, 5], 400);
        check(&[60_000], 1_000);
    }

    #[test]
    fn pause_doubles_up_to_its_bound() {
        let mut round = Round::new(Pace::default().patience());
        let only = [at("a")];
        let mut pauses = Vec::new();
        for _ in 0..6 {
            round.asked(&at("a"));
            match round.undecided(&at("a"), None, &only) {
                Next::Wait(pause) => pauses.push(pause.as_millis()),
                Next::Ask(target) => panic!("{target} again, without a pause"),
            }
            assert_eq!(round.silent(at("a"), &only), Next::Ask(at("a")));
        }
        assert_eq!(pauses, [20, 40, 80, 160, 250, 250]);
    }
}

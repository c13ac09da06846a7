//! Sandboxes that are removed while they are made, at moments that a seed chooses; and the agent dies meanwhile.

use super::leader::desired;
use super::{LONG_LEASE, on_machine, one};
use proto::wire::{Phase, Reason};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;
use tokio::time::Instant;

const SANDBOXES: u64 = 60;
/// All of them are asked for within this time.
const SPREAD_MS: u64 = 1_500;
/// Making one takes less on a quiet machine.
const LONGEST_LIFE_MS: u64 = 300;

enum Act {
    Add(u64),
    Remove(u64),
}

/// What happens when, from the beginning on.
fn acts(seed: u64) -> Vec<(Duration, Act)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut acts = Vec::new();
    for uid in 1..=SANDBOXES {
        let added = random.random_range(0..SPREAD_MS);
        let removed = added + random.random_range(0..LONGEST_LIFE_MS);
        acts.push((Duration::from_millis(added), Act::Add(uid)));
        acts.push((Duration::from_millis(removed), Act::Remove(uid)));
    }
    // Of two at the same moment the one that came first goes first.
    acts.sort_by_key(|(at, _)| *at);
    acts
}

/// Sandboxes whose monitors are killed, one after the other.
const KILLED: u64 = 20;
/// A monitor starts a container within less.
const LONGEST_START_MS: u64 = 60;

#[test]
fn monitors_killed_at_any_moment_of_starting_end_their_sandboxes_and_leave_nothing() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let mut random = StdRng::seed_from_u64(seed);
        let _agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[]).await;
        let empty = machine.traces().await;
        for uid in 1..=KILLED {
            session
                .add(desired(uid, &format!("s{uid}"), &one("sleep 600")))
                .await;
            machine.await_monitor(uid).await;
            let delay = random.random_range(0..LONGEST_START_MS);
            tokio::time::sleep(Duration::from_millis(delay)).await;
            machine.kill_monitor(uid);
            let report = session.reported(uid, Phase::Failed).await;
            assert_eq!(report.reason(), Reason::AgentError, "{report:?}");
            assert_eq!(machine.processes_of(uid), []);
            session.remove(uid).await;
            session.reported(uid, Phase::Deleting).await;
            machine.await_traces(&empty).await;
        }
    });
}

#[test]
fn sandboxes_removed_at_any_moment_of_being_made_leave_nothing() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    on_machine(LONG_LEASE, |mut leader, machine| async move {
        let _agent = machine.start();
        let mut session = leader.session().await;
        session.desire(&[]).await;
        let empty = machine.traces().await;
        let begun = Instant::now();
        for (at, act) in acts(seed) {
            tokio::time::sleep_until(begun + at).await;
            match act {
                Act::Add(uid) => {
                    session
                        .add(desired(uid, &format!("s{uid}"), &one("sleep 600")))
                        .await;
                }
                Act::Remove(uid) => session.remove(uid).await,
            }
        }
        for uid in 1..=SANDBOXES {
            session.reported(uid, Phase::Deleting).await;
        }
        machine.await_traces(&empty).await;
    });
}

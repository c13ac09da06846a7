//! Takes a dead replica out once another has come in its place, where somebody has asked for that. Owns the rule; the
//! removal itself, with its own checks, is `raft`'s. Called by `Controller`.

use crate::clock;
use crate::raft::Replica;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Replicas are looked at this often within the time: late by a twentieth of it at most.
const LOOKS: u32 = 20;
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A voter as the leader hears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    id: u64,
    /// `None`: it answers.
    silence: Option<Duration>,
}

/// Runs until it is dropped; returns at once where nothing is to be removed.
pub(super) async fn run(replica: &Replica, after: Option<Duration>) {
    let Some(after) = after else {
        return;
    };
    let pause = (after / LOOKS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut silent_since: BTreeMap<u64, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(pause).await;
        let (now, cluster) = (clock::instant(), replica.cluster());
        let voters = cluster.replicas.iter().filter(|replica| replica.voter);
        let voters: Vec<Heard> = voters
            .map(|voter| {
                if voter.reachable {
                    silent_since.remove(&voter.id);
                }
                let since = (!voter.reachable).then(|| *silent_since.entry(voter.id).or_insert(now));
                Heard {
                    id: voter.id,
                    silence: since.map(|since| now.duration_since(since)),
                }
            })
            .collect();
        silent_since.retain(|id, _| voters.iter().any(|voter| voter.id == *id));
        let Some(dead) = replaced(&voters, after) else {
            continue;
        };
        match replica.remove_member(dead, false).await {
            Ok(()) => tracing::warn!(
                replica = dead,
                ?after,
                "a replica that was dead for long is removed: another has taken its place"
            ),
            Err(error) => tracing::warn!(replica = dead, %error, "a dead replica is not removed yet"),
        }
    }
}

/// The voter that has been silent for `after` and was replaced: all others answer, one of them is newer, and there are
/// as many as before it was lost, which is an odd number and three at least.
fn replaced(voters: &[Heard], after: Duration) -> Option<u64> {
    let mut silent = voters.iter().filter(|voter| voter.silence.is_some());
    let dead = silent.next()?;
    let others = voters.len() - 1;
    let is_replaced = voters.iter().any(|voter| voter.id > dead.id);
    let whole = silent.next().is_none() && others >= 3 && others % 2 == 1;
    (whole && is_replaced && dead.silence >= Some(after)).then_some(dead.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(60);

    /// Voters and for how many seconds they have been silent.
    #[track_caller]
    fn check(voters: &[(u64, Option<u64>)], expected: Option<u64>) {
        let voters: Vec<Heard> = voters
            .iter()
            .map(|&(id, silent)| Heard {
                id,
                silence: silent.map(Duration::from_secs),
            })
            .collect();
        assert_eq!(replaced(&voters, AFTER), expected, "{voters:?}");
    }

    #[test]
    fn dead_voter_goes_once_another_has_taken_its_place() {
        let up = |id| (id, None);
        check(&[up(1), up(2), up(3), up(4)], None);
        // Nobody has come yet, neither with three nor with five.
        check(&[(1, Some(900)), up(2), up(3)], None);
        check(&[(1, Some(900)), up(2), up(3), up(4), up(5)], None);
        check(&[(1, Some(59)), up(2), up(3), up(4)], None);
        check(&[(1, Some(60)), up(2), up(3), up(4)], Some(1));
        check(&[(2, Some(60)), up(3), up(4), up(5), up(6), up(7)], Some(2));
        // The newest one is the dead one: nothing has replaced it.
        check(&[up(1), up(2), up(3), (4, Some(900))], None);
        // Another one is in doubt as well.
        check(&[(1, Some(900)), up(2), up(3), (4, Some(1))], None);
        check(&[(1, Some(900)), up(2)], None);
        check(&[], None);
    }
}

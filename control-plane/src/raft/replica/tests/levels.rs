//! Format levels between whole replicas: who comes in, who stops, and when the level rises.

use super::cluster::PATIENCE;
use super::{Cluster, external, has};
use crate::raft::{MemberError, ProposeError, Replica, Summed};
use crate::state::Level;
use futures::StreamExt;
use proto::wire;
use std::collections::BTreeMap;
use std::time::Duration;

/// Waits until the replica's state is at the level.
async fn reaches(replica: &Replica, level: Level) {
    let mut applied = replica.replicated().applied();
    let reaching = async {
        while replica.replicated().read().level() < level {
            applied.changed().await.expect("it runs");
        }
    };
    tokio::time::timeout(PATIENCE, reaching)
        .await
        .expect("it is raised");
}

fn level(cluster: &Cluster, id: u64) -> Level {
    cluster.replica(id).replicated().read().level()
}

/// What each member runs, as the leader has heard it.
async fn spoken(cluster: &Cluster, expected: &[(u64, u32)]) {
    let hearing = async {
        loop {
            let described = cluster.leader().await.cluster();
            let spoken: Vec<(u64, u32)> = described
                .replicas
                .iter()
                .filter_map(|replica| Some((replica.id, replica.software.as_ref()?.level)))
                .collect();
            if spoken == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, hearing)
        .await
        .expect("all have said it");
}

#[tokio::test(flavor = "multi_thread")]
async fn level_rises_with_the_last_replica_that_is_upgraded() {
    let mut cluster = Cluster::at(3, Level::FIRST).await;
    spoken(&cluster, &[(1, 0), (2, 0), (3, 0)]).await;
    for id in 1..=3 {
        cluster.write(external(id)).await;
        cluster.kill(id);
        cluster.configs[id as usize - 1].level = Level(1);
        cluster.restart(id).await;
        let said: Vec<(u64, u32)> = (1..=3).map(|other| (other, u32::from(other <= id))).collect();
        spoken(&cluster, &said).await;
        cluster.write(external(10 + id)).await;
        if id < 3 {
            assert!(
                cluster
                    .running()
                    .all(|r| r.replicated().read().level() == Level::FIRST)
            );
        }
    }
    for id in 1..=3 {
        reaches(&cluster.replica(id), Level(1)).await;
        cluster.replica(id).linearize().await.expect("it is up to date");
        assert!(
            [1, 2, 3, 11, 12, 13]
                .iter()
                .all(|&n| has(&cluster.replica(id), n))
        );
    }

    // There is no way back: not for a replica that was a member, nor for a new one.
    cluster.end(2).await;
    cluster.configs[1].level = Level::FIRST;
    let refused = cluster
        .try_start(2)
        .await
        .expect_err("it does not start")
        .to_string();
    assert!(refused.contains("level 1 is in force"), "{refused}");
    cluster.configs[0].level = Level::FIRST;
    let newcomer = cluster.newcomer().await;
    let leader = cluster.leader().await;
    let refused = leader.add_member(newcomer).await;
    let Err(
        error @ MemberError::Level {
            id: 4,
            level: Level(0),
            cluster: Level(1),
            ..
        },
    ) = refused
    else {
        panic!("{refused:?}");
    };
    assert!(
        error.to_string().contains("start a newer version there"),
        "{error}"
    );
}

/// Its data folder says nothing of the level yet: it meets it in the log that it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn replica_that_was_away_and_comes_back_too_old_stops_and_applies_nothing() {
    let (mut cluster, listeners) = Cluster::planned(3).await;
    for (config, level) in cluster.configs.iter_mut().zip([1, 1, 0]) {
        config.level = Level(level);
    }
    for (config, listener) in cluster.configs.clone().into_iter().zip(listeners) {
        cluster.start(config, listener).await;
    }
    spoken(&cluster, &[(1, 1), (2, 1), (3, 0)]).await;
    cluster.write(external(1)).await;
    assert_eq!(level(&cluster, 1), Level::FIRST);
    // It goes, and what the leader has heard of it is what a newer version said that ran there for a moment.
    cluster.end(3).await;
    let software = wire::Software {
        level: 1,
        version: String::new(),
    };
    let raising = async {
        loop {
            let leader = cluster.leader().await;
            let term = leader.leadership().borrow().term;
            // An answer of the old one may be on its way yet.
            leader.0.levels.hear(3, term, Some(software.clone()));
            let raised = tokio::time::timeout(Duration::from_millis(200), reaches(&leader, Level(1)));
            if raised.await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, raising)
        .await
        .expect("it is raised");
    cluster.restart(3).await;
    let stopped = tokio::time::timeout(PATIENCE, cluster.replica(3).stopped()).await;
    let stopped = stopped.expect("it stops");
    assert!(
        stopped.contains("level 1 is in force in this cluster"),
        "{stopped}"
    );
    assert_eq!(level(&cluster, 3), Level::FIRST);
    // The others go on.
    cluster.write(external(2)).await;
}

/// What the members hold, as whoever leads is told.
async fn checked(cluster: &Cluster, id: &str) -> Result<BTreeMap<u64, Summed>, ProposeError> {
    let checking = async {
        loop {
            let leader = cluster.leader().await;
            match leader.check_state(id.to_owned()).await {
                Err(ProposeError::NotLeader { .. } | ProposeError::Unknown { .. }) => {}
                Err(refused) => return Err(refused),
                Ok(answers) => {
                    let answers = answers.map(|(id, summed)| (id, summed.expect("it answers")));
                    return Ok(answers.collect().await);
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, checking)
        .await
        .expect("it is decided")
}

#[tokio::test(flavor = "multi_thread")]
async fn command_of_a_later_level_is_refused_until_all_replicas_speak_it() {
    let mut cluster = Cluster::at(3, Level(1)).await;
    reaches(&cluster.leader().await, Level(1)).await;
    let behind = cluster.follower().await.id();
    for id in (1..=3).filter(|id| *id != behind) {
        cluster.kill(id);
        cluster.configs[id as usize - 1].level = Level(2);
        cluster.restart(id).await;
    }
    let said: Vec<(u64, u32)> = (1..=3).map(|id| (id, if id == behind { 1 } else { 2 })).collect();
    spoken(&cluster, &said).await;
    let refused = checked(&cluster, "too-early").await.expect_err("it is refused");
    assert_eq!(
        refused.to_string(),
        format!(
            "this needs all replicas to be at level 2 or later: replica {behind} is at level 1 (version {}), upgrade it",
            env!("CARGO_PKG_VERSION")
        )
    );
    cluster.kill(behind);
    cluster.configs[behind as usize - 1].level = Level(2);
    cluster.restart(behind).await;
    for id in 1..=3 {
        reaches(&cluster.replica(id), Level(2)).await;
    }
    cluster.write(external(1)).await;
    let summed = checked(&cluster, "now").await.expect("it is taken");
    assert_eq!(summed.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(summed.values().all(|one| *one == summed[&1]), "{summed:?}");
}

/// One record differs on one replica, as where a disk or a version has failed.
#[tokio::test(flavor = "multi_thread")]
async fn check_finds_a_replica_that_holds_something_else() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    reaches(&leader, Level::NEWEST).await;
    cluster.write(external(1)).await;
    let follower = cluster.follower().await;
    let index = follower.linearize().await.expect("it is up to date");
    let stray = wire::Batch {
        now_ms: 1,
        commands: vec![external(99)],
    };
    follower.replicated().apply(1, index, stray);
    let summed = checked(&cluster, "check").await.expect("it is taken");
    for (id, one) in &summed {
        assert_eq!(one.index, summed[&leader.id()].index);
        let differs = one.digest != summed[&leader.id()].digest;
        assert_eq!(differs, *id == follower.id(), "{summed:?}");
    }
}

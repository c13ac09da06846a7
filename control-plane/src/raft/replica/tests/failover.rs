//! Leaders that end, quorums that are lost, disks that are read again.

use super::cluster::{PATIENCE, until};
use super::{Cluster, external, has};
use crate::clock;
use crate::raft::{ProposeError, ReadError, Replica};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The promise is a second; tests run beside others on machines with few cores.
const TAKEOVER: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn leader_killed_amid_writes_loses_nothing_acknowledged() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (leader, done) = (leader.clone(), done.clone());
        async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                if leader.propose(external(n)).await.is_err() {
                    break;
                }
                acknowledged.push(n);
                done.store(n >= 50, Ordering::Release);
            }
            acknowledged
        }
    });
    while !done.load(Ordering::Acquire) && !writer.is_finished() {
        tokio::task::yield_now().await;
    }
    let killed_at = clock::instant();
    cluster.kill(leader.id());
    drop(leader);
    cluster.write(external(1_000_000)).await;
    let took = killed_at.elapsed();
    assert!(took < TAKEOVER, "the next write took {took:?}");
    let acknowledged: Vec<u64> = writer.await.unwrap();
    for replica in cluster.running() {
        replica.linearize().await.unwrap();
        for &n in &acknowledged {
            assert!(has(replica, n), "write {n} on replica {}", replica.id());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retried_request_gets_its_first_answer_from_the_new_leader() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.write(external(1)).await;
    let leader = cluster.leader().await.id();
    cluster.kill(leader);
    let again = cluster.write(external(1)).await;
    assert_eq!(again, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_of_the_leader_hands_over_before_it_ends() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let term = leader.leadership().borrow().term;
    leader.shutdown().await;
    until(&follower, "another one leads", |now| {
        now.leader.as_ref().is_some_and(|l| l.id != leader.id())
    })
    .await;
    // One election, wanted by the old leader: no timeout and no second round.
    assert_eq!(follower.leadership().borrow().term, term + 1);
    assert!(matches!(
        leader.propose(external(1)).await,
        Err(ProposeError::Stopped)
    ));
    assert!(matches!(leader.linearize().await, Err(ReadError::Stopped)));
    assert!(!leader.leadership().borrow().is_self);
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_that_hears_no_leader_knows_none_until_one_speaks_again() {
    let mut cluster = Cluster::of(3).await;
    cluster.write(external(1)).await;
    let (leader, follower) = (cluster.leader().await.id(), cluster.follower().await);
    follower.linearize().await.unwrap();
    let mut others = cluster.running().map(Replica::id);
    let third = others.find(|id| ![leader, follower.id()].contains(id)).unwrap();
    drop(others);
    // Without the third one nobody is elected, and nobody says so.
    cluster.kill(third);
    cluster.kill(leader);
    until(&follower, "it knows of no leader", |now| now.leader.is_none()).await;
    let refused = follower.propose(external(2)).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
    assert!(has(&follower, 1), "stale reads go on");
    cluster.restart(leader).await;
    until(&follower, "it knows a leader", |now| now.leader.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_quorum_is_told_in_bounded_time_and_ends_when_one_returns() {
    let mut cluster = Cluster::of(3).await;
    cluster.write(external(1)).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster
        .running()
        .map(|r| r.id())
        .filter(|id| *id != leader.id())
        .collect();
    for &other in &others {
        cluster.kill(other);
    }
    let answered = tokio::time::timeout(PATIENCE, leader.propose(external(2)))
        .await
        .unwrap();
    assert!(
        matches!(
            answered,
            Err(ProposeError::Unknown { .. } | ProposeError::NotLeader { leader: None })
        ),
        "{answered:?}"
    );
    let read = tokio::time::timeout(PATIENCE, leader.linearize()).await.unwrap();
    assert!(
        matches!(read, Err(ReadError::Unconfirmed { .. } | ReadError::NoLeader)),
        "{read:?}"
    );
    until(&leader, "it counts as no leader", |now| {
        now.leader.is_none() && !now.is_self
    })
    .await;
    assert!(has(&leader, 1), "stale reads go on");
    cluster.restart(others[0]).await;
    cluster.write(external(2)).await;
    cluster.write(external(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_restarted_show_what_was_acknowledged() {
    let mut cluster = Cluster::of(3).await;
    for n in 0..20 {
        cluster.write(external(n)).await;
    }
    let before = cluster.leader().await.cluster().term;
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.restart(id).await;
    }
    cluster.write(external(20)).await;
    for replica in cluster.running() {
        replica.linearize().await.unwrap();
        for n in 0..=20 {
            assert!(has(replica, n), "write {n} on replica {}", replica.id());
        }
    }
    assert!(
        cluster.leader().await.cluster().term > before,
        "a restarted leader is elected anew"
    );
}

//! Replicas that were away.

use super::cluster::PATIENCE;
use super::{Cluster, external, has};
use std::time::Duration;

async fn away() -> (Cluster, u64) {
    let mut cluster = Cluster::of(3).await;
    cluster.write(external(0)).await;
    let away = cluster.follower().await.id();
    cluster.kill(away);
    for n in 1..100 {
        cluster.write(external(n)).await;
    }
    (cluster, away)
}

async fn assert_caught_up(cluster: &Cluster, id: u64) {
    let replica = cluster.replica(id);
    replica.linearize().await.unwrap();
    for n in 0..100 {
        assert!(has(&replica, n), "write {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn returning_replica_gets_the_log_it_lacks() {
    let (mut cluster, away) = away().await;
    cluster.restart(away).await;
    assert_caught_up(&cluster, away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn returning_replica_gets_a_snapshot_where_the_log_is_purged() {
    let (mut cluster, away) = away().await;
    for replica in cluster.running() {
        let raft = cluster.raft(replica.id());
        replica.linearize().await.unwrap();
        let applied = *replica.replicated().applied().borrow();
        raft.trigger().snapshot().await.unwrap();
        let wait = raft.wait(Some(PATIENCE));
        wait.metrics(|m| m.snapshot.is_some_and(|at| at.index >= applied), "a snapshot")
            .await
            .unwrap();
        raft.trigger().purge_log(applied).await.unwrap();
        wait.metrics(|m| m.purged.is_some_and(|at| at.index >= applied), "purged")
            .await
            .unwrap();
    }
    cluster.restart(away).await;
    assert_caught_up(&cluster, away).await;
    // By a snapshot, as the log is gone. The state shows it before openraft does.
    let wait = cluster.raft(away).wait(Some(PATIENCE));
    wait.metrics(|m| m.snapshot.is_some(), "installed").await.unwrap();
    // And goes on from there by the log, also after another restart.
    cluster.write(external(100)).await;
    cluster.kill(away);
    cluster.restart(away).await;
    assert_caught_up(&cluster, away).await;
    assert!(has(&cluster.replica(away), 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_tells_who_is_away_and_every_replica_passes_it_on() {
    let (mut cluster, away) = away().await;
    let leader = cluster.leader().await;
    // Reachable means: has answered within the last second.
    let told = loop {
        let told = leader.cluster();
        if told.replicas.iter().any(|r| !r.reachable) {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((told.leader_id, told.answered_by), (leader.id(), leader.id()));
    for replica in &told.replicas {
        assert_eq!(replica.reachable, replica.id != away, "{replica:?}");
        assert_eq!(replica.lag > 50, replica.id == away, "{replica:?}");
        assert_eq!(replica.leader, replica.id == leader.id(), "{replica:?}");
        assert!(replica.voter);
    }
    let follower = cluster.follower().await;
    let passed_on = follower.describe_cluster().await;
    assert_eq!(passed_on.answered_by, follower.id());
    assert!(
        passed_on
            .replicas
            .iter()
            .any(|r| r.id == away && !r.reachable && r.lag > 50)
    );
    cluster.restart(away).await;
    assert_caught_up(&cluster, away).await;
}

//! Writes and reads on a healthy cluster.

use super::{Cluster, external, external_id, has};
use crate::raft::ProposeError;
use proto::wire;

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_show_what_one_was_told() {
    let cluster = Cluster::of(3).await;
    let accepted = cluster.write(external(1)).await;
    assert_eq!(accepted.outcome(), wire::Outcome::Created);
    for replica in cluster.running() {
        replica.linearize().await.unwrap();
        assert!(has(replica, 1), "replica {}", replica.id());
    }
    let terms: Vec<u64> = cluster.running().map(|r| r.cluster().term).collect();
    assert!(terms.windows(2).all(|pair| pair[0] == pair[1]), "{terms:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_proposals_ride_together_and_get_their_own_answers() {
    const COMMANDS: u64 = 500;
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let before = *leader.replicated().applied().borrow();
    let writes = (0..COMMANDS).map(|n| cluster.write(external(n)));
    for (n, accepted) in (0..).zip(futures::future::join_all(writes).await) {
        let Some(wire::object::Object::External(answer)) = accepted.object.unwrap().object else {
            panic!("an external was written");
        };
        assert_eq!(answer.id, external_id(n));
    }
    let entries = *leader.replicated().applied().borrow() - before;
    assert!(
        entries * 4 <= COMMANDS,
        "{COMMANDS} commands took {entries} entries"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_refuses_a_write_and_names_the_leader() {
    let cluster = Cluster::of(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let refused = follower.propose(external(1)).await.unwrap_err();
    let ProposeError::NotLeader { leader: Some(named) } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(named.id, leader.id());
    assert_eq!(named.endpoint, format!("http://127.0.0.1:{}", leader.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_command_is_told_so_and_others_of_its_batch_are_not() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    let missing = wire::Command {
        request_id: "delete".to_owned(),
        op: Some(wire::command::Op::Delete(wire::DeleteObject {
            kind: wire::Kind::External.into(),
            id: "absent".to_owned(),
            force: false,
        })),
    };
    let (deleted, made) = tokio::join!(leader.propose(missing), leader.propose(external(1)));
    assert!(
        matches!(&deleted, Err(ProposeError::Rejected(r)) if r.code() == wire::rejected::Code::NotFound),
        "{deleted:?}"
    );
    assert_eq!(made.unwrap().outcome(), wire::Outcome::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn command_beyond_the_limit_is_too_large() {
    let cluster = Cluster::of(1).await;
    let mut command = external(1);
    command.request_id = "x".repeat(5 << 20);
    let refused = cluster.leader().await.propose(command).await.unwrap_err();
    assert!(matches!(refused, ProposeError::TooLarge { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn largest_commands_pass_between_replicas() {
    let cluster = Cluster::of(3).await;
    let large = |n: u64| {
        let mut command = external(n);
        let Some(wire::command::Op::Apply(apply)) = &mut command.op else {
            panic!("an external is applied");
        };
        let label = "x".repeat((4 << 20) - 4096);
        apply
            .manifest
            .as_mut()
            .unwrap()
            .labels
            .insert("large".to_owned(), label);
        command
    };
    // Two are more than one message. A label of that size is refused by the state, which is an answer too.
    let leader = cluster.leader().await;
    let (one, other) = tokio::join!(leader.propose(large(1)), leader.propose(large(2)));
    for answer in [one, other] {
        assert!(
            matches!(
                answer,
                Err(ProposeError::Rejected(_) | ProposeError::NotLeader { .. })
            ),
            "{answer:?}"
        );
    }
    cluster.write(external(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_reads_what_was_acknowledged_just_before() {
    let cluster = Cluster::of(3).await;
    for n in 0..50 {
        cluster.write(external(n)).await;
        for replica in cluster.running() {
            let index = replica.linearize().await.unwrap();
            assert!(has(replica, n), "replica {} at {index}", replica.id());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reads_share_rounds() {
    let cluster = Cluster::of(3).await;
    cluster.write(external(1)).await;
    let follower = cluster.follower().await;
    let reads = (0..1_000).map(|_| follower.linearize());
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
}

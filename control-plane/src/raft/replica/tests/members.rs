//! Replicas that come and go while the cluster runs.

use super::cluster::{PATIENCE, until};
use super::{Cluster, external, has};
use crate::raft::replica::StartError;
use crate::raft::{IdentityError, MemberError, ProposeError, Replica};
use proto::wire;
use proto::wire::replica_progress::Stage;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// As an administrator does it: asks the leader, again where it has changed.
async fn at_leader<T>(
    cluster: &Cluster,
    what: impl AsyncFn(&Replica) -> Result<T, MemberError>,
) -> Result<T, MemberError> {
    let asking = async {
        loop {
            let leader = cluster.leader().await;
            match what(&leader).await {
                Err(MemberError::NotLeader { .. } | MemberError::Undecided) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                decided => return decided,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("it is decided")
}

/// A new voter, caught up; or a learner.
async fn join(cluster: &mut Cluster, learner: bool) -> Result<u64, MemberError> {
    let member = cluster.newcomer().await;
    let id = member.id;
    at_leader(cluster, async |leader| leader.add_member(member.clone()).await).await?;
    at_leader(cluster, async |leader| {
        let (progress, mut steps) = mpsc::channel(16);
        let promoted = leader.promote_member(id, learner, &progress).await;
        drop(progress);
        let mut last = Stage::Unspecified;
        while let Ok(step) = steps.try_recv() {
            last = step.stage();
        }
        if promoted.is_ok() {
            let goal = if learner { Stage::CaughtUp } else { Stage::Voter };
            assert_eq!(last, goal);
        }
        promoted
    })
    .await?;
    Ok(id)
}

async fn remove(cluster: &Cluster, id: u64) -> Result<(), MemberError> {
    at_leader(cluster, async |leader| leader.remove_member(id, false).await).await
}

fn voters(replica: &Replica) -> Vec<u64> {
    let cluster = replica.cluster();
    let voters = cluster.replicas.iter().filter(|replica| replica.voter);
    voters.map(|replica| replica.id).collect()
}

/// Writes one after another, to whoever takes it, until it is told to stop.
struct Writer {
    replicas: Arc<Mutex<Vec<Replica>>>,
    written: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Self {
        let replicas = Arc::new(Mutex::new(cluster.running().cloned().collect::<Vec<_>>()));
        let written = Arc::new(AtomicU64::new(0));
        let (known, done) = (replicas.clone(), written.clone());
        let task = tokio::spawn(async move {
            for n in 0.. {
                'write: loop {
                    let known: Vec<Replica> = known.lock().unwrap().clone();
                    for replica in known {
                        match replica.propose(external(n)).await {
                            Ok(_) => break 'write,
                            Err(
                                ProposeError::NotLeader { .. }
                                | ProposeError::Unknown { .. }
                                | ProposeError::Stopped,
                            ) => {}
                            Err(e) => panic!("{e}"),
                        }
                    }
                    tokio::task::yield_now().await;
                }
                done.store(n + 1, Ordering::Release);
            }
        });
        Self {
            replicas,
            written,
            task,
        }
    }

    fn knows(&self, cluster: &Cluster) {
        *self.replicas.lock().unwrap() = cluster.running().cloned().collect();
    }

    /// Waits for some writes more: they go on.
    async fn goes_on(&self) {
        let goal = self.written.load(Ordering::Acquire) + 20;
        let going = async {
            while self.written.load(Ordering::Acquire) < goal {
                assert!(!self.task.is_finished(), "the writer has failed");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, going).await.expect("writes go on");
    }

    fn stop(self) -> u64 {
        self.task.abort();
        self.written.load(Ordering::Acquire)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_grows_to_five_and_shrinks_to_one_amid_writes_and_loses_none() {
    let mut cluster = Cluster::of(1).await;
    cluster.leader().await;
    let writer = Writer::start(&cluster);
    writer.goes_on().await;
    for expected in 2..=5 {
        assert_eq!(join(&mut cluster, false).await, Ok(expected));
        writer.knows(&cluster);
        writer.goes_on().await;
    }
    assert_eq!(voters(&cluster.leader().await), [1, 2, 3, 4, 5]);
    // The first leader goes as well, and whoever leads after it.
    for gone in 1..=4 {
        remove(&cluster, gone).await.unwrap();
        let dismissed = cluster.replica(gone);
        tokio::time::timeout(PATIENCE, dismissed.dismissed())
            .await
            .expect("it is told");
        cluster.kill(gone);
        writer.knows(&cluster);
        writer.goes_on().await;
    }
    let last = cluster.leader().await;
    assert_eq!((last.id(), voters(&last)), (5, vec![5]));
    let written = writer.stop();
    last.linearize().await.unwrap();
    for n in 0..written {
        assert!(has(&last, n), "write {n} of {written}");
    }
    assert_eq!(remove(&cluster, 5).await, Err(MemberError::Last(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_voter_is_replaced_without_a_pause_and_its_number_never_comes_back() {
    let mut cluster = Cluster::of(3).await;
    cluster.write(external(0)).await;
    let dead = cluster.follower().await.id();
    cluster.kill(dead);
    // Its last tasks may be writing still: moved away, it is as good as gone.
    let data = &cluster.configs[dead as usize - 1].data_dir;
    std::fs::rename(data, data.with_extension("gone")).unwrap();
    let writer = Writer::start(&cluster);
    assert_eq!(join(&mut cluster, false).await, Ok(4));
    remove(&cluster, dead).await.unwrap();
    // Asked again, it is removed already.
    remove(&cluster, dead).await.unwrap();
    writer.goes_on().await;
    let written = writer.stop();
    let leader = cluster.leader().await;
    assert!(!voters(&leader).contains(&dead));
    assert_eq!(voters(&leader).len(), 3);
    assert_eq!(leader.cluster().removed, [dead]);
    let fourth = cluster.replica(4);
    fourth.linearize().await.unwrap();
    for n in 0..written {
        assert!(has(&fourth, n), "write {n}");
    }
    let old = wire::Member {
        id: dead,
        peer_endpoint: "http://127.0.0.1:9".to_owned(),
        endpoint: "http://127.0.0.1:9".to_owned(),
    };
    let refused = at_leader(&cluster, async |leader| leader.add_member(old.clone()).await).await;
    assert_eq!(refused, Err(MemberError::Removed { id: dead, next: 5 }));
    // Nor by way of joining.
    let given = at_leader(&cluster, async |leader| {
        leader.give_number(dead, "token".to_owned(), true).await
    });
    assert!(matches!(
        given.await,
        Err(MemberError::Number(ProposeError::Rejected(_)))
    ));
    let next = at_leader(&cluster, async |leader| leader.next_number()).await;
    assert_eq!(next, Ok(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn voter_that_the_quorum_needs_stays_unless_it_is_forced_out() {
    let mut cluster = Cluster::of(3).await;
    cluster.write(external(0)).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await.id();
    let dead = (1..=3).find(|id| *id != leader.id() && *id != follower).unwrap();
    cluster.kill(dead);
    let noticed = async {
        while leader
            .cluster()
            .replicas
            .iter()
            .any(|r| r.id == dead && r.reachable)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed)
        .await
        .expect("its death is noticed");
    let refused = MemberError::NoQuorum {
        id: follower,
        voters: 2,
        reachable: 1,
    };
    assert_eq!(remove(&cluster, follower).await, Err(refused));
    // The dead one itself is no loss.
    remove(&cluster, dead).await.unwrap();
    cluster.write(external(1)).await;
    assert_eq!(remove(&cluster, 9).await, Err(MemberError::Unknown(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn learner_has_no_vote_until_it_is_promoted() {
    let mut cluster = Cluster::of(1).await;
    cluster.write(external(0)).await;
    assert_eq!(join(&mut cluster, true).await, Ok(2));
    let leader = cluster.leader().await;
    assert_eq!(voters(&leader), [1]);
    assert_eq!(leader.transfer_leadership(2).await, Err(MemberError::NoVote(2)));
    assert_eq!(leader.transfer_leadership(7).await, Err(MemberError::Unknown(7)));
    assert_eq!(leader.transfer_leadership(0).await, Err(MemberError::NoSuccessor));
    let learner = cluster.replica(2);
    learner.linearize().await.unwrap();
    assert!(has(&learner, 0), "it has what was written");
    let (progress, _steps) = mpsc::channel(16);
    leader.promote_member(2, false, &progress).await.unwrap();
    assert_eq!(voters(&leader), [1, 2]);
    let second = leader.transfer_leadership(0).await.unwrap();
    assert_eq!(second.id, 2);
    until(&learner, "it leads", |now| now.is_self).await;
    // To the one that leads: nothing to do.
    assert_eq!(learner.transfer_leadership(2).await.unwrap().id, 2);
    assert_eq!(learner.transfer_leadership(1).await.unwrap().id, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_was_removed_while_it_was_away_finds_out_and_never_starts_again() {
    let mut cluster = Cluster::of(3).await;
    cluster.write(external(0)).await;
    let away = cluster.follower().await.id();
    cluster.kill(away);
    let others: Vec<u64> = (1..=3).filter(|id| *id != away).collect();
    remove(&cluster, away).await.unwrap();
    // Whoever would tell it goes first.
    let leader = cluster.leader().await.id();
    cluster.kill(leader);
    cluster.restart(leader).await;
    cluster.restart(away).await;
    let back = cluster.replica(away);
    tokio::time::timeout(PATIENCE, back.dismissed())
        .await
        .expect("it finds out");
    cluster.kill(away);
    let refused = cluster.try_start(away).await;
    assert!(
        matches!(refused, Err(StartError::Identity(IdentityError::Removed { id, .. })) if id == away),
        "{refused:?}"
    );
    for id in others {
        assert!(!voters(&cluster.replica(id)).contains(&away));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_that_does_not_answer_or_is_anothers_is_not_taken_in() {
    let mut cluster = Cluster::of(1).await;
    cluster.write(external(0)).await;
    let add = async |cluster: &Cluster, member: wire::Member| {
        at_leader(cluster, async |leader| leader.add_member(member.clone()).await).await
    };
    let nobody = wire::Member {
        id: 2,
        peer_endpoint: "http://127.0.0.1:9".to_owned(),
        endpoint: "http://127.0.0.1:10".to_owned(),
    };
    let refused = add(&cluster, nobody.clone()).await;
    assert!(
        matches!(refused, Err(MemberError::NoAnswer { id: 2, .. })),
        "{refused:?}"
    );
    let anonymous = wire::Member {
        id: 0,
        ..nobody.clone()
    };
    assert_eq!(add(&cluster, anonymous).await, Err(MemberError::Id));
    let own = cluster.configs[0].advertise.clone();
    let taken = wire::Member {
        endpoint: own.clone(),
        ..nobody.clone()
    };
    assert_eq!(
        add(&cluster, taken).await,
        Err(MemberError::Address { url: own, other: 1 })
    );
    let encrypted = wire::Member {
        endpoint: "https://127.0.0.1:10".to_owned(),
        ..nobody.clone()
    };
    assert!(matches!(
        add(&cluster, encrypted).await,
        Err(MemberError::Url { .. })
    ));
    let elsewhere = wire::Member { id: 1, ..nobody };
    assert!(matches!(
        add(&cluster, elsewhere).await,
        Err(MemberError::Elsewhere { id: 1, .. })
    ));
    // One of another cluster, and one that is not who it is said to be.
    let other = Cluster::of(1).await;
    other.leader().await;
    let member = wire::Member {
        id: 1,
        peer_endpoint: other.configs[0].advertise_peer.clone(),
        endpoint: "http://127.0.0.1:10".to_owned(),
    };
    let mistaken = wire::Member {
        id: 2,
        ..member.clone()
    };
    let refused = add(&cluster, mistaken).await;
    assert!(
        matches!(&refused, Err(MemberError::NoAnswer { why, .. }) if why.contains("this is replica 1")),
        "{refused:?}"
    );
    assert_eq!(voters(&cluster.leader().await), [1]);
    let newcomer = cluster.newcomer().await;
    newcomer_of_another_cluster(&mut cluster, newcomer).await;
}

/// A replica that has formed a cluster of its own is not swallowed.
async fn newcomer_of_another_cluster(cluster: &mut Cluster, newcomer: wire::Member) {
    let id = newcomer.id;
    let replica = cluster.replica(id);
    let own = wire::Replica {
        id,
        peer_endpoint: newcomer.peer_endpoint.clone(),
        endpoint: newcomer.endpoint.clone(),
        ..Default::default()
    };
    replica.init(vec![own]).await.unwrap();
    until(&replica, "it leads itself", |now| now.is_self).await;
    let first = cluster.replica(1);
    assert_eq!(
        first.add_member(newcomer.clone()).await,
        Err(MemberError::Foreign {
            id,
            url: newcomer.peer_endpoint,
        })
    );
}

//! How clusters begin, and which folders and lists are refused.

use super::super::{Replica, StartError};
use super::cluster::until;
use super::{Cluster, external, has};
use crate::raft::InitError;
use proto::wire;

fn listed(cluster: &Cluster) -> Vec<wire::Replica> {
    let replica = |config: &crate::config::Config| wire::Replica {
        id: config.id,
        endpoint: config.advertise.clone(),
        peer_endpoint: config.advertise_peer.clone(),
        ..Default::default()
    };
    cluster.configs.iter().map(replica).collect()
}

/// Replicas that wait for `sbxorch cluster init`.
async fn waiting(size: u64) -> Cluster {
    let (mut cluster, listeners) = Cluster::planned(size).await;
    let mut configs = cluster.configs.clone();
    for (config, listener) in configs.iter_mut().zip(listeners) {
        config.initial_cluster.clear();
        cluster.start(config.clone(), listener).await;
    }
    cluster.configs = configs;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_started_one_after_another_form_one_cluster() {
    let (mut cluster, listeners) = Cluster::planned(3).await;
    for (config, listener) in cluster.configs.clone().iter().zip(listeners) {
        cluster.start(config.clone(), listener).await;
        if config.id == 2 {
            // Two of three are enough; the third finds a cluster that writes already.
            cluster.write(external(1)).await;
        }
    }
    let last = cluster.replica(3);
    last.linearize().await.unwrap();
    assert!(has(&last, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_is_formed_by_command_once() {
    let cluster = waiting(3).await;
    let second = cluster.replica(2);
    assert_eq!(second.cluster().replicas, []);
    second.init(listed(&cluster)).await.unwrap();
    cluster.write(external(1)).await;
    for replica in cluster.running() {
        replica.linearize().await.unwrap();
        assert!(has(replica, 1), "replica {}", replica.id());
        let again = replica.init(listed(&cluster)).await;
        assert_eq!(again, Err(InitError::Formed(replica.id())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_form_no_cluster_are_refused_with_their_fault() {
    #[track_caller]
    fn check(answer: &Result<(), InitError>, expected: InitError) {
        assert_eq!(*answer, Err(expected));
    }
    let cluster = waiting(3).await;
    let first = cluster.replica(1);
    let good = listed(&cluster);
    let changed = |change: fn(&mut Vec<wire::Replica>)| {
        let mut list = good.clone();
        change(&mut list);
        first.init(list)
    };
    check(&changed(|l| l.clear()).await, InitError::Size(0));
    check(&changed(|l| l.truncate(2)).await, InitError::Size(2));
    check(&changed(|l| l[1].id = 3).await, InitError::Twice(3));
    check(&changed(|l| l[1].id = 0).await, InitError::Id);
    check(&changed(|l| l[0].id = 4).await, InitError::Missing(1));
    let url = "ftp://x".to_owned();
    check(
        &changed(|l| l[2].endpoint = "ftp://x".to_owned()).await,
        InitError::Url {
            id: 3,
            url,
            scheme: "http://",
        },
    );
    let listed = "http://elsewhere".to_owned();
    let own = good[0].peer_endpoint.clone();
    check(
        &changed(|l| l[0].peer_endpoint = "http://elsewhere".to_owned()).await,
        InitError::Differs { listed, own },
    );
    first.init(good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn single_replica_leads_at_once() {
    let mut cluster = Cluster::of(1).await;
    cluster.write(external(1)).await;
    cluster.kill(1);
    cluster.restart(1).await;
    let replica = cluster.leader().await;
    replica.linearize().await.unwrap();
    assert!(has(&replica, 1));
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_of_another_replica_is_refused() {
    let mut cluster = Cluster::of(1).await;
    cluster.kill(1);
    let mut config = cluster.configs[0].clone();
    config.id = 2;
    let refused = Replica::start(&config, &crate::security::Security::Insecure)
        .await
        .unwrap_err();
    assert!(matches!(refused, StartError::Identity(_)), "{refused}");
    let told = refused.to_string();
    assert!(
        told.contains("belong to replica 1") && told.contains("--id 1"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_address_is_named() {
    let cluster = Cluster::of(1).await;
    let mut config = cluster.configs[0].clone();
    config.data_dir = config.data_dir.join("other");
    let refused = Replica::start(&config, &crate::security::Security::Insecure)
        .await
        .unwrap_err();
    assert!(matches!(refused, StartError::Bind { address, .. } if address == config.peer_listen));
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_at_the_address_of_another_is_not_taken_for_it() {
    // Replica 3's address is answered by a replica of another cluster.
    let stranger = Cluster::of(1).await;
    let (mut cluster, listeners) = Cluster::planned(3).await;
    let address = stranger.configs[0].advertise_peer.clone();
    for (config, listener) in cluster.configs.clone().iter_mut().zip(listeners).take(2) {
        config.initial_cluster[2].peer_endpoint.clone_from(&address);
        cluster.start(config.clone(), listener).await;
    }
    cluster.write(external(1)).await;
    let term = stranger.replica(1).cluster().term;
    until(&stranger.replica(1), "it still leads", |now| {
        now.is_self && now.term == term
    })
    .await;
    assert!(!has(&stranger.replica(1), 1));
}

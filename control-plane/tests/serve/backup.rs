//! A backup becomes a new cluster, and its agents come to it.

use crate::agent::{Agent, running};
use crate::cluster::{Cluster, Service, within};
use crate::user::*;
use control_plane::raft::{self, RestoreError};
use proto::backup::{MARK, frame};
use proto::wire::cluster_client::ClusterClient;
use proto::wire::control_client::ControlClient;
use proto::wire::{self, Kind, NodeState, Phase};
use std::path::{Path, PathBuf};
use tonic::Code;

/// As `sbxctl cluster backup` writes it.
async fn back_up(cluster: &Cluster, replica: usize, stale: bool) -> Result<Vec<u8>, tonic::Status> {
    let mut client = ClusterClient::new(cluster.service(replica, None));
    let mut parts = client.backup(wire::BackupRequest { stale }).await?.into_inner();
    let mut file = MARK.to_vec();
    while let Some(part) = within("the next part", parts.message()).await? {
        file.extend(frame(&part));
    }
    Ok(file)
}

async fn members(control: &mut ControlClient<Service>) -> wire::ClusterResponse {
    let request = wire::ClusterRequest { stale: false };
    within("the members", control.cluster(request))
        .await
        .expect("they are told")
        .into_inner()
}

fn written(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("cluster.backup");
    std::fs::write(&path, bytes).expect("written");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_cluster_goes_on_beyond_what_the_old_one_did_after_the_backup() {
    let mut cluster = Cluster::start(1).await;
    let mut agent = Agent::join(&cluster, "n").await;
    apply(&cluster, sandbox("kept", "")).await;
    let kept = agent.told_to_run("kept").await;
    agent.report(running(&kept)).await;
    Watch::of(&cluster, 0, Kind::Sandbox, "kept")
        .await
        .until_phase(Phase::Running)
        .await;
    let file = back_up(&cluster, 0, false).await.expect("it is sent");
    // Acknowledged by the old cluster, and lost with it.
    apply(&cluster, sandbox("lost", "")).await;
    let lost = agent.told_to_run("lost").await;
    let old = members(&mut cluster.control(0)).await;
    drop(agent);
    cluster.stop(0).await;

    let dir = cluster.dir().join("restored");
    let file = written(cluster.dir(), &file);
    let refused = raft::restore(&file, &dir, Some(1), cluster.place(2));
    assert!(
        matches!(refused, Err(RestoreError::Used { id: 1, next: 2 })),
        "{refused:?}"
    );
    assert!(!dir.exists());
    let restored = raft::restore(&file, &dir, None, cluster.place(2)).expect("it is whole");
    assert_eq!((restored.id, restored.sandboxes, restored.nodes), (2, 1, 1));
    let refused = raft::restore(&file, &dir, None, cluster.place(2));
    assert!(matches!(refused, Err(RestoreError::Exists(_))), "{refused:?}");

    let replica = cluster.start_on(2, &dir).await;
    let mut control = cluster.control(replica);
    let new = members(&mut control).await;
    assert!(new.term > old.term, "{} after {}", new.term, old.term);
    assert_eq!(new.removed, [1]);
    let ids: Vec<u64> = new.replicas.iter().map(|r| r.id).collect();
    assert_eq!(ids, [2]);
    let node = match get(&mut control, Kind::Node, "n").await.expect("it is kept") {
        wire::object::Object::Node(node) => node,
        other => panic!("{other:?}"),
    };
    assert_eq!(node.state(), NodeState::NotReady);

    let inventory = vec![running(&kept), running(&lost)];
    let mut agent = Agent::greet(cluster.agent(replica), "n", inventory)
        .await
        .expect("it is welcome");
    let desired = agent.desired().await;
    let version = desired.version.expect("it has one");
    assert!(version.term > old.term, "its agents take it for newer");
    let uids: Vec<u64> = desired.sandboxes.iter().map(|s| s.uid).collect();
    assert_eq!((desired.full, uids), (true, vec![kept.uid]));
    Watch::of(&cluster, replica, Kind::Node, "n")
        .await
        .until_state(NodeState::Ready)
        .await;
    apply(&cluster, sandbox("new", "")).await;
    let newer = agent.told_to_run("new").await;
    assert!(
        newer.uid > lost.uid,
        "{} is not taken for {}",
        newer.uid,
        lost.uid
    );

    // A backup of that, and the same one once more, lead further still.
    let again = cluster.dir().join("again");
    let second = back_up(&cluster, replica, true).await.expect("it is sent");
    let file = written(cluster.dir(), &second);
    let restored = raft::restore(&file, &again, None, cluster.place(3)).expect("it is whole");
    assert_eq!((restored.id, restored.sandboxes), (3, 2));
    cluster.stop(replica).await;
    let replica = cluster.start_on(3, &again).await;
    let newest = members(&mut cluster.control(replica)).await;
    assert!(newest.term > new.term);
    assert_eq!(newest.removed, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_that_was_changed_or_cut_anywhere_is_refused_with_the_place() {
    let cluster = Cluster::start(1).await;
    for n in 0..20 {
        apply(&cluster, external(&format!("e{n}"), &format!("n{n}"), "a.test")).await;
    }
    let whole = back_up(&cluster, 0, false).await.expect("it is sent");
    let dir = cluster.dir().join("restored");
    let check = |bytes: &[u8], part: &str| {
        let file = written(cluster.dir(), bytes);
        let error = raft::restore(&file, &dir, None, cluster.place(2)).expect_err("it is refused");
        assert!(error.to_string().contains(part), "{error} does not say {part}");
        assert!(error.to_string().contains("cluster.backup"), "{error}");
        assert!(!dir.exists() && !dir.with_extension("restoring").exists());
    };
    for place in (8..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x10;
        check(&damaged, "");
    }
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    check(&damaged, "is damaged at byte");
    for length in [whole.len() - 1, whole.len() / 2, 20] {
        check(&whole[..length], "it was cut off");
    }
    check(b"SBXBKUP", "no backup");
    check(b"something else altogether", "no backup");
    check(&[&whole[..], b"x"].concat(), "is not where it belongs");
    let file = written(cluster.dir(), &whole);
    raft::restore(&file, &dir, None, cluster.place(2)).expect("the whole one is taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_is_the_leaders_and_any_replicas_where_it_may_be_stale() {
    let cluster = Cluster::start(3).await;
    apply(&cluster, external("e", "n", "a.test")).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let refused = back_up(&cluster, follower, false)
        .await
        .expect_err("it does not lead");
    assert_names_leader(&refused, cluster.endpoint(leader));
    for (replica, stale) in [(leader, false), (follower, true)] {
        let bytes = back_up(&cluster, replica, stale).await.expect("it is sent");
        let file = written(cluster.dir(), &bytes);
        let dir = cluster.dir().join(format!("restored-{replica}"));
        let restored = raft::restore(&file, &dir, None, cluster.place(4)).expect("it is whole");
        assert_eq!(restored.id, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_takes_an_administrator() {
    let cluster = Cluster::secure(1).await;
    let mut client = ClusterClient::new(cluster.service(0, None));
    let refused = client.backup(wire::BackupRequest::default()).await;
    assert_eq!(refused.expect_err("refused").code(), Code::Unauthenticated);
}

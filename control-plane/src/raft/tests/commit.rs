//! Group commit: who shares a sync, and what a failed one does.

use super::super::group_commit::GroupCommit;
use super::*;
use std::sync::mpsc;

type Answer = openraft::alias::OneshotReceiverOf<TypeConfig, io::Result<()>>;

fn wait(commits: &GroupCommit) -> Answer {
    let (done, answer) = TypeConfig::oneshot();
    commits.push(IOFlushed::signal(done));
    answer
}

#[tokio::test]
async fn those_who_come_during_a_sync_share_the_next_one() {
    let (began, syncing) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let commits = GroupCommit::start(move || {
        began.send(()).expect("a test");
        released.recv().expect("a test");
        Ok(())
    })
    .expect("a thread");

    let first = wait(&commits);
    syncing.recv().expect("the first sync");
    let others: Vec<_> = (0..100).map(|_| wait(&commits)).collect();
    release.send(()).expect("syncing");
    first.await.expect("an answer").expect("durable");
    syncing.recv().expect("the second sync");
    release.send(()).expect("syncing");
    for other in others {
        other.await.expect("an answer").expect("durable");
    }
    assert_eq!(commits.syncs(), 2);
}

#[tokio::test]
async fn a_failed_sync_fails_all_that_follow() {
    let mut failures = vec![Err(io::Error::other("no space left"))];
    let commits = GroupCommit::start(move || failures.pop().unwrap_or(Ok(()))).expect("a thread");
    commits.check().expect("healthy");
    for _ in 0..3 {
        let error = wait(&commits).await.expect("an answer").expect_err("refused");
        assert!(error.to_string().contains("no space left"), "{error}");
    }
    let error = commits.check().expect_err("refused");
    assert!(error.to_string().contains("no space left"), "{error}");
}

#[tokio::test]
async fn the_end_syncs_for_those_who_wait() {
    let commits = GroupCommit::start(|| Ok(())).expect("a thread");
    let waiting: Vec<_> = (0..10).map(|_| wait(&commits)).collect();
    drop(commits);
    for answer in waiting {
        answer.await.expect("an answer").expect("durable");
    }
}

#[tokio::test]
async fn appends_in_flight_need_fewer_syncs_than_entries() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = LogStore::open(dir.path()).expect("opened");
    let mut waiting = Vec::new();
    for index in 0..500 {
        let (done, durable) = TypeConfig::oneshot();
        let entry = sized(index, 200);
        store
            .append([entry], IOFlushed::signal(done))
            .await
            .expect("appended");
        waiting.push(durable);
    }
    for durable in waiting {
        durable.await.expect("an answer").expect("durable");
    }
    let syncs = store.syncs();
    assert!((1..500).contains(&syncs), "{syncs} syncs");
}

//! The applied state: what is there again after a restart, and what its readers are told.

use super::super::group_commit::SyncProgress;
use super::super::state_store::StateStore;
use super::*;
use crate::state::Change;
use openraft::StoredMembership;
use tempfile::{TempDir, tempdir};

fn open(dir: &TempDir) -> StateStore {
    StateStore::open(dir.path(), SyncProgress::default(), Level::NEWEST).expect("opened")
}

/// The folder of the only database.
fn database(dir: &Path) -> PathBuf {
    dir.join("state/db-1")
}

#[tokio::test]
async fn a_reopened_state_is_the_same() {
    let dir = tempdir().expect("a folder");
    let mut all = changes(1, 200);
    all.push(Entry {
        log_id: log_id(1, 201),
        payload: Payload::Membership(members(&[&[1, 2]], &[3])),
    });
    all.push(blank(2, 202));
    apply(&mut open(&dir), all.clone()).await;

    let mut store = open(&dir);
    let (applied, membership) = store.applied_state().await.expect("a position");
    assert_eq!(applied, Some(log_id(2, 202)));
    let expected = StoredMembership::new(Some(log_id(1, 201)), members(&[&[1, 2]], &[3]));
    assert_eq!(membership, expected);
    let replicated = store.replicated();
    assert_eq!(*replicated.read(), state_after(&all));
    assert_eq!(replicated.read().index(), 202);
    assert_eq!(*replicated.applied().borrow(), 202);
}

#[tokio::test]
async fn a_torn_end_leaves_the_state_after_some_entry() {
    let dir = tempdir().expect("a folder");
    let all = changes(1, 30);
    let mut store = open(&dir);
    for entry in all.clone() {
        apply(&mut store, vec![entry]).await;
    }
    drop(store);
    let (wal, bytes) = newest_wal(&database(dir.path()));
    let name = wal.file_name().expect("a name").to_owned();
    for cut in (0..bytes.len()).step_by(bytes.len() / 20) {
        let torn = tempdir().expect("a folder");
        copy_dir(dir.path(), torn.path());
        let path = database(torn.path()).join(&name);
        fs::write(path, &bytes[..bytes.len() - cut]).expect("torn");
        let mut store = open(&torn);
        let applied = store.applied_state().await.expect("a position").0;
        let applied = applied.map_or(0, |id| id.index) as usize;
        assert_eq!(
            *store.replicated().read(),
            state_after(&all[..applied]),
            "{cut} cut"
        );
        // openraft applies the rest of the log.
        apply(&mut store, all[applied..].to_vec()).await;
        assert_eq!(*store.replicated().read(), state_after(&all), "{cut} cut");
    }
}

#[tokio::test]
async fn what_the_log_may_still_lose_is_shown_and_not_written() {
    let dir = tempdir().expect("a folder");
    let log = SyncProgress::default();
    let mut store = StateStore::open(dir.path(), log.clone(), Level::NEWEST).expect("opened");
    let all = changes(1, 3);
    for entry in all.clone() {
        log.count_written();
        apply(&mut store, vec![entry]).await;
    }
    assert_eq!(*store.replicated().read(), state_after(&all));
    assert_eq!(*store.replicated().applied().borrow(), 3);

    // How far a crash now would leave it; a crash after the log has synced two of the entries; and all.
    for (synced, written) in [(0, None), (2, Some(2)), (3, Some(3))] {
        log.set_synced(synced);
        apply(&mut store, Vec::new()).await;
        let crashed = tempdir().expect("a folder");
        copy_dir(dir.path(), crashed.path());
        let applied = open(&crashed).applied_state().await.expect("a position").0;
        assert_eq!(applied.map(|id| id.index), written, "{synced} synced");
    }
}

#[tokio::test]
async fn damage_is_named() {
    for (key, what) in [(&b"oee1"[..], "the record `ee1`"), (b"p", "the applied position")] {
        let dir = tempdir().expect("a folder");
        apply(&mut open(&dir), changes(1, 3)).await;
        flip_stored_byte(&database(dir.path()), "default", key);
        let error = StateStore::open(dir.path(), SyncProgress::default(), Level::NEWEST)
            .map(|_| ())
            .expect_err("refused");
        let error = error.to_string();
        assert!(error.contains(what), "{error}");
        assert!(error.contains("checksum mismatch"), "{error}");
    }
}

#[tokio::test]
async fn a_lost_database_is_not_taken_for_an_empty_one() {
    let dir = tempdir().expect("a folder");
    apply(&mut open(&dir), changes(1, 3)).await;
    fs::remove_dir_all(database(dir.path())).expect("removed");
    let error = StateStore::open(dir.path(), SyncProgress::default(), Level::NEWEST)
        .map(|_| ())
        .expect_err("refused");
    assert!(error.to_string().contains("db-1"), "{error}");
}

#[tokio::test]
async fn subscribers_get_each_change_once_from_what_they_read() {
    let dir = tempdir().expect("a folder");
    let mut store = open(&dir);
    apply(&mut store, changes(1, 5)).await;
    let replicated = store.replicated();
    let ((index, count), mut received) =
        replicated.subscribe_with(|state| (state.index(), state.externals().count()));
    assert_eq!((index, count), (5, 5));
    apply(&mut store, vec![blank(1, 6)]).await;
    apply(&mut store, changes(7, 8)).await;
    for expected in 7..=8 {
        let set = received.try_recv().expect("it is kept").expect("a change");
        assert_eq!((set.index, set.term), (expected, 1));
        let [
            Change::External {
                before: None,
                after: Some(after),
            },
        ] = &set.changes[..]
        else {
            panic!("{set:?}");
        };
        assert_eq!(after.spec.external, format!("name-{expected}.test"));
    }
    assert!(received.try_recv().expect("it is kept").is_none());
}

#[tokio::test]
async fn who_waits_for_an_index_sees_it() {
    let dir = tempdir().expect("a folder");
    let mut store = open(&dir);
    let replicated = store.replicated();
    let mut applied = replicated.applied();
    let waiting = tokio::spawn(async move {
        applied.wait_for(|index| *index >= 100).await.expect("applied");
        replicated.read().index()
    });
    apply(&mut store, changes(1, 100)).await;
    assert_eq!(waiting.await.expect("ended"), 100);
}

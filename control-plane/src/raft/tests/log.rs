//! The log: what is there again after a restart, after a torn write, and what damage is called.

use super::super::error::StoreError;
use super::*;
use crate::raft::types::Vote;
use tempfile::{TempDir, tempdir};

fn open(dir: &TempDir) -> LogStore {
    LogStore::open(dir.path()).expect("opened")
}

/// A log with entries `1..=last`, closed.
async fn written(last: u64) -> TempDir {
    let dir = tempdir().expect("a folder");
    let mut store = open(&dir);
    for index in 1..=last {
        append(&mut store, vec![sized(index, 300)])
            .await
            .expect("appended");
    }
    dir
}

fn refused(dir: &Path) -> StoreError {
    LogStore::open(dir).map(|_| ()).expect_err("refused")
}

#[tokio::test]
async fn a_reopened_log_has_everything() {
    let dir = tempdir().expect("a folder");
    let vote = Vote::new_committed(7, 3);
    let membership = Entry {
        log_id: log_id(1, 9),
        payload: Payload::Membership(members(&[&[1, 2, 3], &[1, 2, 4]], &[5])),
    };
    let mut all = changes(1, 8);
    all.push(membership);
    all.push(blank(2, 10));
    {
        let mut store = open(&dir);
        store.save_vote(&vote).await.expect("saved");
        append(&mut store, all.clone()).await.expect("appended");
        store.purge(log_id(1, 4)).await.expect("purged");
        store.save_committed(Some(log_id(1, 6))).await.expect("saved");
    }
    let mut store = open(&dir);
    assert_eq!(entries(&mut store).await.expect("readable"), all[4..]);
    let state = store.get_log_state().await.expect("a state");
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 4)));
    assert_eq!(state.last_log_id, Some(log_id(2, 10)));
    assert_eq!(
        store.read_committed().await.expect("readable"),
        Some(log_id(1, 6))
    );
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.read_vote().await.expect("readable"), Some(vote));
}

#[tokio::test]
async fn a_truncated_log_stays_so_and_goes_on() {
    let dir = written(6).await;
    {
        let mut store = open(&dir);
        store.truncate_after(Some(log_id(1, 3))).await.expect("truncated");
        append(&mut store, vec![blank(2, 4)]).await.expect("appended");
    }
    let mut store = open(&dir);
    let log = entries(&mut store).await.expect("readable");
    let ids: Vec<_> = log.iter().map(|entry| entry.log_id).collect();
    assert_eq!(ids, [log_id(1, 1), log_id(1, 2), log_id(1, 3), log_id(2, 4)]);
}

#[tokio::test]
async fn a_log_purged_beyond_its_end_goes_on_behind_it() {
    let dir = written(3).await;
    {
        let mut store = open(&dir);
        store.purge(log_id(2, 20)).await.expect("purged");
    }
    let mut store = open(&dir);
    let state = store.get_log_state().await.expect("a state");
    assert_eq!(state.last_log_id, Some(log_id(2, 20)));
    append(&mut store, vec![blank(2, 21)]).await.expect("appended");
    assert_eq!(indexes(&mut store).await, [21]);
}

#[tokio::test]
async fn a_gap_is_refused() {
    let dir = written(3).await;
    let mut store = open(&dir);
    for index in [3, 5] {
        let error = append(&mut store, vec![blank(1, index)])
            .await
            .expect_err("refused");
        assert_eq!(
            error.to_string(),
            format!("entry {index} was to be appended where 4 is next")
        );
    }
    append(&mut store, vec![blank(1, 4)]).await.expect("appended");
}

#[tokio::test]
async fn a_read_for_replication_is_bounded_in_bytes() {
    let dir = tempdir().expect("a folder");
    let mut store = open(&dir);
    let large: Vec<_> = (1..=8).map(|index| sized(index, 400 << 10)).collect();
    append(&mut store, large).await.expect("appended");
    let mut reader = store.get_log_reader().await;
    let part = reader.limited_get_log_entries(2, 9).await.expect("readable");
    let part: Vec<_> = part.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(part, [2, 3, 4]);
    let all: Vec<_> = futures::StreamExt::collect(reader.entries_stream(2..=8).await).await;
    let all: Vec<_> = all
        .into_iter()
        .map(|entry| entry.expect("readable").log_id.index)
        .collect();
    assert_eq!(all, [2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn a_torn_end_is_cut_off_and_the_rest_is_there() {
    let dir = written(20).await;
    let (wal, bytes) = newest_wal(&dir.path().join("log"));
    let name = wal.file_name().expect("a name").to_owned();
    let mut longest = 0;
    for cut in (1..bytes.len()).step_by(bytes.len() / 40) {
        let torn = tempdir().expect("a folder");
        copy_dir(dir.path(), torn.path());
        fs::write(torn.path().join("log").join(&name), &bytes[..bytes.len() - cut]).expect("torn");
        let mut store = open(&torn);
        let indexes = indexes(&mut store).await;
        let there = indexes.len() as u64;
        assert_eq!(indexes, (1..=there).collect::<Vec<_>>(), "{cut} bytes cut off");
        append(&mut store, vec![blank(1, there + 1)])
            .await
            .expect("appended");
        longest = longest.max(there);
    }
    assert_eq!(longest, 19);
}

#[tokio::test]
async fn damage_before_the_end_of_the_write_ahead_log_is_refused() {
    let dir = written(20).await;
    let (wal, mut bytes) = newest_wal(&dir.path().join("log"));
    let third = bytes.len() / 3;
    bytes[third] ^= 0x40;
    fs::write(wal, bytes).expect("damaged");
    let error = refused(dir.path());
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    assert!(error.to_string().contains("Corruption"), "{error}");
}

#[tokio::test]
async fn a_changed_byte_is_named() {
    let dir = written(5).await;
    flip_stored_byte(&dir.path().join("log"), "logs", &3_u64.to_be_bytes());
    let error = refused(dir.path()).to_string();
    assert!(error.contains("log entry 3"), "{error}");
    assert!(error.contains("checksum mismatch"), "{error}");
}

#[tokio::test]
async fn a_changed_vote_is_named() {
    let dir = tempdir().expect("a folder");
    open(&dir).save_vote(&Vote::new(3, 1)).await.expect("saved");
    flip_stored_byte(&dir.path().join("log"), "meta", b"vote");
    let mut reader = open(&dir).get_log_reader().await;
    let error = reader.read_vote().await.expect_err("refused").to_string();
    assert!(error.contains("the vote"), "{error}");
    assert!(error.contains("checksum mismatch"), "{error}");
}

#[tokio::test]
async fn a_missing_entry_is_named() {
    let dir = written(5).await;
    {
        let options = rocksdb::Options::default();
        let path = dir.path().join("log");
        let db = rocksdb::DB::open_cf(&options, path, ["default", "logs", "meta"]).expect("opened");
        let logs = db.cf_handle("logs").expect("the family");
        db.delete_cf(logs, 3_u64.to_be_bytes()).expect("deleted");
    }
    let error = refused(dir.path());
    assert!(matches!(error, StoreError::Hole { index: 3, .. }), "{error}");
}

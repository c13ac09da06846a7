//! What a newer version has written, met by an older one: in the log, in the state, in a snapshot, in a backup.

use super::super::group_commit::SyncProgress;
use super::super::state_store::StateStore;
use super::*;
use openraft::storage::RaftSnapshotBuilder;
use tempfile::{TempDir, tempdir};

fn open(dir: &TempDir, level: Level) -> Result<StateStore, String> {
    StateStore::open(dir.path(), SyncProgress::default(), level).map_err(|e| e.to_string())
}

fn raise(index: u64) -> Entry {
    let command = wire::Command {
        request_id: String::new(),
        op: Some(wire::command::Op::RaiseLevel(wire::RaiseLevel { level: 1 })),
    };
    normal(
        1,
        index,
        1_000 * index,
        vec![external("with-it", "a.test"), command],
    )
}

/// As a command of a later version looks to this one.
fn unknown(index: u64) -> Entry {
    normal(
        1,
        index,
        1_000 * index,
        vec![external("with-it", "a.test"), wire::Command::default()],
    )
}

#[tokio::test]
async fn entry_of_a_newer_version_is_not_applied_and_what_follows_is_neither() {
    for (entry, own, told) in [
        (raise(3), Level::FIRST, "level 1 is in force in this cluster"),
        (
            unknown(3),
            Level::NEWEST,
            "entry 3 of the log holds a command that this version",
        ),
    ] {
        let dir = tempdir().expect("a folder");
        let mut store = open(&dir, own).expect("opened");
        let before = changes(1, 2);
        apply(&mut store, before.clone()).await;
        let entries = [entry, changes(4, 4).remove(0)].map(|entry| Ok((entry, None)));
        let refused = store.apply(futures::stream::iter(entries)).await;
        let refused = refused.expect_err("it stops").to_string();
        assert!(refused.contains(told), "{refused}");
        assert_eq!(*store.replicated().read(), state_after(&before));
        assert_eq!(store.replicated().read().index(), 2);
        drop(store);
        let mut store = open(&dir, own).expect("opened");
        let (applied, _) = store.applied_state().await.expect("a position");
        assert_eq!(applied, Some(log_id(1, 2)));
    }
}

#[tokio::test]
async fn state_of_a_newer_version_is_not_opened_and_not_touched() {
    let dir = tempdir().expect("a folder");
    let mut all = changes(1, 2);
    all.push(raise(3));
    apply(&mut open(&dir, Level::NEWEST).expect("opened"), all.clone()).await;
    let refused = open(&dir, Level::FIRST).map(drop).expect_err("refused");
    assert!(
        refused.contains("level 1 is in force") && refused.contains("start a newer version"),
        "{refused}"
    );
    let store = open(&dir, Level::NEWEST).expect("opened");
    assert_eq!(*store.replicated().read(), state_after(&all));
}

#[tokio::test]
async fn snapshot_of_a_newer_version_is_not_installed() {
    let (from, to) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
    let mut newer = open(&from, Level::NEWEST).expect("opened");
    apply(&mut newer, vec![raise(1)]).await;
    let mut builder = newer.get_snapshot_builder().await;
    let snapshot = builder.build_snapshot().await.expect("built");
    let mut older = open(&to, Level::FIRST).expect("opened");
    let refused = older.install_snapshot(&snapshot.meta, snapshot.snapshot).await;
    let refused = refused.expect_err("it stops").to_string();
    assert!(refused.contains("level 1 is in force"), "{refused}");
    assert_eq!(*older.replicated().read(), State::default());
    drop(older);
    let older = open(&to, Level::FIRST).expect("it is as it was");
    assert_eq!(older.replicated().read().index(), 0);
}

//! Snapshots: built, streamed in pieces, installed; and what a crash between any two steps leaves.

use super::super::group_commit::SyncProgress;
use super::super::snapshot::{SnapshotError, SnapshotFiles};
use super::super::state_store::StateStore;
use super::*;
use openraft::storage::RaftSnapshotBuilder;
use tempfile::{TempDir, tempdir};

/// Small, so that files come in many pieces.
const PIECE: usize = 1_000;

type Snapshot = super::super::snapshot::Snapshot;

fn open(dir: &TempDir) -> StateStore {
    StateStore::open(dir.path(), SyncProgress::default(), Level::NEWEST).expect("opened")
}

async fn build(store: &mut StateStore) -> Snapshot {
    let mut builder = store.get_snapshot_builder().await;
    builder.build_snapshot().await.expect("built")
}

/// Sends it the way the network does.
fn stream(from: &SnapshotFiles, to: &StateStore) -> Result<Snapshot, SnapshotError> {
    let mut incoming = to.inbox().begin(from.manifest().clone())?;
    let mut buffer = vec![0; PIECE];
    for file in 0..from.manifest().files.len() as u32 {
        let mut offset = 0;
        loop {
            let len = from.read_at(file, offset, &mut buffer)?;
            if len == 0 {
                break;
            }
            incoming.write(file, offset, &buffer[..len])?;
            offset += len as u64;
        }
    }
    incoming.finish()
}

/// A store with a state and membership, and its snapshot.
async fn source(last: u64) -> (TempDir, StateStore, Snapshot) {
    let dir = tempdir().expect("a folder");
    let mut store = open(&dir);
    apply(&mut store, changes(1, last)).await;
    let membership = Entry {
        log_id: log_id(1, last + 1),
        payload: Payload::Membership(members(&[&[1, 2, 3]], &[])),
    };
    apply(&mut store, vec![membership]).await;
    let snapshot = build(&mut store).await;
    (dir, store, snapshot)
}

fn folders(dir: &Path) -> Vec<String> {
    crate::raft::durable::names(dir).expect("readable")
}

#[tokio::test]
async fn a_streamed_snapshot_gives_the_same_state() {
    let (_dir, mut leader, snapshot) = source(300).await;
    // What is applied afterwards is not in it.
    apply(&mut leader, changes(302, 310)).await;

    let dir = tempdir().expect("a folder");
    let mut follower = open(&dir);
    apply(&mut follower, changes(1, 3)).await;
    let replicated = follower.replicated();
    let mut changed = replicated.subscribe();
    let received = stream(&snapshot.snapshot, &follower).expect("received");
    assert_eq!(received.meta, snapshot.meta);
    follower
        .install_snapshot(&received.meta, received.snapshot)
        .await
        .expect("installed");

    let missed = changed
        .try_recv()
        .expect_err("a snapshot tells no single changes");
    assert_eq!((missed.since, missed.oldest), (3, 301));
    let expected = state_after(&changes(1, 300));
    assert_eq!(*replicated.read(), expected);
    assert_eq!(*replicated.applied().borrow(), 301);
    let current = follower
        .get_current_snapshot()
        .await
        .expect("readable")
        .expect("a snapshot");
    assert_eq!(current.meta, snapshot.meta);
    assert!(folders(&dir.path().join("state/incoming")).is_empty());

    // It goes on from there, and is still so after a restart.
    apply(&mut follower, changes(302, 305)).await;
    let after = (*replicated.read()).clone();
    drop((follower, current));
    let mut reopened = open(&dir);
    assert_eq!(*reopened.replicated().read(), after);
    let (applied, membership) = reopened.applied_state().await.expect("a position");
    assert_eq!(applied, Some(log_id(1, 305)));
    assert_eq!(membership, snapshot.meta.last_membership);
    let current = reopened
        .get_current_snapshot()
        .await
        .expect("readable")
        .expect("a snapshot");
    assert_eq!(current.meta, snapshot.meta);
}

#[tokio::test]
async fn a_superseded_snapshot_stays_while_it_is_sent() {
    let (dir, mut store, old) = source(50).await;
    apply(&mut store, changes(52, 60)).await;
    let new = build(&mut store).await;
    assert!(new.meta.last_log_id > old.meta.last_log_id);

    let other = tempdir().expect("a folder");
    let follower = open(&other);
    stream(&old.snapshot, &follower).expect("still there");
    let snapshots = dir.path().join("state/snapshots");
    assert_eq!(folders(&snapshots).len(), 2);
    drop(old);
    assert_eq!(folders(&snapshots).len(), 1);
    let current = store
        .get_current_snapshot()
        .await
        .expect("readable")
        .expect("a snapshot");
    assert_eq!(current.meta, new.meta);
}

#[tokio::test]
async fn the_own_snapshot_can_be_installed_again() {
    let (dir, mut store, snapshot) = source(50).await;
    apply(&mut store, changes(52, 60)).await;
    store
        .install_snapshot(&snapshot.meta, snapshot.snapshot.clone())
        .await
        .expect("installed");
    assert_eq!(*store.replicated().read(), state_after(&changes(1, 50)));
    drop((store, snapshot));
    let mut reopened = open(&dir);
    assert_eq!(*reopened.replicated().read(), state_after(&changes(1, 50)));
    assert!(reopened.get_current_snapshot().await.expect("readable").is_some());
}

#[tokio::test]
async fn wrong_pieces_are_refused_and_leave_nothing() {
    let (_dir, _store, snapshot) = source(20).await;
    let manifest = snapshot.snapshot.manifest().clone();
    let other = tempdir().expect("a folder");
    let follower = open(&other);
    let first = manifest
        .files
        .iter()
        .position(|file| file.len > 0)
        .expect("a file");
    let mut bytes = vec![0; usize::try_from(manifest.files[first].len).expect("small")];
    let first = u32::try_from(first).expect("few");
    snapshot.snapshot.read_at(first, 0, &mut bytes).expect("read");

    #[track_caller]
    fn check(outcome: Result<(), SnapshotError>, expected: &str) {
        let error = outcome.expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    let begin = || follower.inbox().begin(manifest.clone()).expect("begun");
    let next = format!("file {first} at byte 0 is next");
    check(begin().write(first, 1, &bytes), &next);
    check(begin().write(first + 1, 0, &bytes), &next);
    check(
        begin().write(first, 0, &[&bytes[..], b"x"].concat()),
        "bytes instead of",
    );
    check(begin().finish().map(|_| ()), "0 bytes instead of");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    check(begin().write(first, 0, &bytes), "checksum");
    assert!(folders(&other.path().join("state/incoming")).is_empty());

    for name in ["", "..", "../x", "a/b", ".hidden"] {
        let mut manifest = manifest.clone();
        manifest.files[0].name = name.to_owned();
        check(follower.inbox().begin(manifest).map(|_| ()), "is not allowed");
    }
    let mut twice = manifest.clone();
    twice.files[1].name = twice.files[0].name.clone();
    check(follower.inbox().begin(twice).map(|_| ()), "not unique");
}

#[tokio::test]
async fn a_snapshot_of_something_else_leaves_the_old_state() {
    let (_dir, _store, snapshot) = source(20).await;
    let dir = tempdir().expect("a folder");
    let mut follower = open(&dir);
    apply(&mut follower, changes(1, 3)).await;
    let received = stream(&snapshot.snapshot, &follower).expect("received");
    let mut promised = received.meta.clone();
    promised.last_log_id = Some(log_id(9, 99));
    let error = follower.install_snapshot(&promised, received.snapshot).await;
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("covers the log up to"), "{error}");
    assert_eq!(*follower.replicated().read(), state_after(&changes(1, 3)));
    drop(follower);
    let mut reopened = open(&dir);
    assert_eq!(*reopened.replicated().read(), state_after(&changes(1, 3)));
    assert!(reopened.get_current_snapshot().await.expect("readable").is_none());
    assert_eq!(folders(&dir.path().join("state/snapshots")).len(), 0);
}

/// After which step of an installation the replica crashes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Crash {
    Received,
    Adopted,
    Prepared,
    Pointed,
}

#[tokio::test]
async fn a_crash_during_installation_leaves_the_old_state_or_the_new() {
    let (_dir, _store, snapshot) = source(40).await;
    for crash in [Crash::Received, Crash::Adopted, Crash::Prepared, Crash::Pointed] {
        let dir = tempdir().expect("a folder");
        let mut follower = open(&dir);
        apply(&mut follower, changes(1, 3)).await;
        let received = stream(&snapshot.snapshot, &follower).expect("received");
        let stored = follower.stored();
        if crash != Crash::Received {
            let own = stored.adopt(&received.snapshot).expect("adopted");
            if crash != Crash::Adopted {
                let prepared = stored.prepare(&own, &received.meta).expect("prepared");
                stored
                    .crash_with(prepared, crash == Crash::Pointed)
                    .expect("crashed");
            }
        }
        std::mem::forget(received.snapshot.clone());
        drop((follower, received));

        let mut reopened = open(&dir);
        let old = state_after(&changes(1, 3));
        let new = state_after(&changes(1, 40));
        let expected = if crash == Crash::Pointed { &new } else { &old };
        assert_eq!(*reopened.replicated().read(), *expected, "{crash:?}");
        assert!(
            folders(&dir.path().join("state/incoming")).is_empty(),
            "{crash:?}"
        );
        let databases = folders(&dir.path().join("state"));
        let databases = databases.iter().filter(|name| name.starts_with("db-")).count();
        assert_eq!(databases, 1, "{crash:?}");

        // As openraft does at a start: what is newer than the state is installed.
        let current = reopened.get_current_snapshot().await.expect("readable");
        assert_eq!(current.is_some(), crash != Crash::Received, "{crash:?}");
        if let Some(current) = current {
            assert_eq!(current.meta, snapshot.meta, "{crash:?}");
            let installed = reopened.install_snapshot(&current.meta, current.snapshot).await;
            installed.expect("installed");
            assert_eq!(*reopened.replicated().read(), new, "{crash:?}");
        }
    }
}

#[tokio::test]
async fn unfinished_and_damaged_snapshots_are_not_used() {
    let (dir, store, snapshot) = source(20).await;
    let folder = snapshot.snapshot.dir().to_owned();
    drop((store, snapshot));
    let snapshots = dir.path().join("state/snapshots");

    let check = async |damage: &dyn Fn(&Path)| {
        let copy = tempdir().expect("a folder");
        copy_dir(dir.path(), copy.path());
        let folder = copy
            .path()
            .join("state/snapshots")
            .join(folder.file_name().expect("a name"));
        damage(&folder);
        let mut store = open(&copy);
        assert!(store.get_current_snapshot().await.expect("readable").is_none());
        assert!(!folder.exists());
        assert_eq!(*store.replicated().read(), state_after(&changes(1, 20)));
    };
    check(&|folder| fs::remove_file(folder.join("snapshot")).expect("removed")).await;
    check(&|folder| fs::write(folder.join("snapshot"), b"torn").expect("written")).await;
    check(&|folder| {
        let files = folder.join("files");
        let name = folders(&files)
            .into_iter()
            .find(|name| name.ends_with(".sst"))
            .expect("a table");
        fs::remove_file(files.join(name)).expect("removed");
    })
    .await;
    assert_eq!(folders(&snapshots).len(), 1);
}

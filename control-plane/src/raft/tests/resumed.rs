//! Snapshots whose transfer broke off: by a connection, by a crash, by a crash that has torn files.

use super::super::group_commit::SyncProgress;
use super::super::snapshot::{SnapshotError, SnapshotFiles};
use super::super::state_store::StateStore;
use super::*;
use openraft::storage::RaftSnapshotBuilder;
use tempfile::{TempDir, tempdir};

/// Small, so that files come in many pieces.
const PIECE: u64 = 1_000;
/// Who sends.
const SENDER: u64 = 7;

type Snapshot = super::super::snapshot::Snapshot;

fn open(dir: &TempDir) -> StateStore {
    StateStore::open(dir.path(), SyncProgress::default(), Level::NEWEST).expect("opened")
}

/// A store with some tables, and its snapshot.
async fn source() -> (TempDir, StateStore, Snapshot) {
    let dir = tempdir().expect("a folder");
    let mut store = open(&dir);
    apply(&mut store, changes(1, 200)).await;
    build(&mut store).await;
    apply(&mut store, changes(201, 300)).await;
    let snapshot = build(&mut store).await;
    (dir, store, snapshot)
}

async fn build(store: &mut StateStore) -> Snapshot {
    let mut builder = store.get_snapshot_builder().await;
    builder.build_snapshot().await.expect("built")
}

/// Sends what is lacking, as the network does, until `most` bytes are sent; the snapshot where it is whole, and how many
/// bytes there were.
fn send(
    from: &SnapshotFiles,
    sender: u64,
    to: &StateStore,
    most: u64,
) -> Result<(Option<Snapshot>, u64), SnapshotError> {
    let held = to.inbox().held(sender, from.manifest())?;
    let begun = from.lacking(&held)?;
    let mut incoming = to.inbox().go_on(sender, from.manifest().clone(), &begun)?;
    let mut sent = 0;
    for (number, file) in (0..).zip(&from.manifest().files) {
        let mut offset = begun[number as usize];
        while offset < file.len {
            if sent >= most {
                return Ok((None, sent));
            }
            let mut buffer = vec![0; usize::try_from(PIECE).expect("small")];
            let len = from.read_at(number, offset, &mut buffer)?;
            incoming.write(number, offset, &buffer[..len])?;
            offset += len as u64;
            sent += len as u64;
        }
    }
    Ok((Some(incoming.finish()?), sent))
}

fn unfinished(dir: &TempDir, sender: u64) -> PathBuf {
    dir.path().join(format!("state/incoming/from-{sender}/files"))
}

/// The one that ends before its end, and the greatest of those that are whole.
fn kept_files(dir: &TempDir, snapshot: &SnapshotFiles) -> (Option<PathBuf>, Option<PathBuf>) {
    let mut begun = None;
    let mut whole: Option<(u64, PathBuf)> = None;
    for file in &snapshot.manifest().files {
        let path = unfinished(dir, SENDER).join(&file.name);
        match fs::metadata(&path).map(|there| there.len()) {
            Ok(len) if len == file.len && whole.as_ref().is_none_or(|(most, _)| len > *most) => {
                whole = Some((len, path));
            }
            Ok(len) if len < file.len => begun = Some(path),
            Ok(_) | Err(_) => {}
        }
    }
    (begun, whole.map(|(_, path)| path))
}

/// How a transfer ends amid its way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Break {
    Connection,
    Process,
    /// The end of the file that was written is not there, though its length is: a power cut.
    TornEnd,
    /// A file that was whole is so no more.
    Damaged,
}

/// What a crash leaves of what was written; how many bytes are of no use any more.
fn damage(how: Break, dir: &TempDir, snapshot: &SnapshotFiles) -> u64 {
    let (begun, whole) = kept_files(dir, snapshot);
    let (path, place) = match (how, begun, whole) {
        (Break::TornEnd, Some(path), _) => (path, usize::MAX),
        (Break::Damaged, _, Some(path)) => (path, 0),
        (Break::Connection | Break::Process | Break::TornEnd | Break::Damaged, ..) => return 0,
    };
    let mut bytes = fs::read(&path).expect("read");
    let place = place.min(bytes.len().saturating_sub(1));
    if let Some(byte) = bytes.get_mut(place) {
        *byte = !*byte;
    }
    fs::write(&path, &bytes).expect("written");
    bytes.len() as u64
}

#[tokio::test]
async fn transfer_that_broke_anywhere_sends_only_the_rest() {
    let (_dir, leader, snapshot) = source().await;
    let files = &snapshot.snapshot;
    let expected = leader.replicated().read().clone();
    for how in [Break::Connection, Break::Process, Break::TornEnd, Break::Damaged] {
        for tenth in 0..=9 {
            let dir = tempdir().expect("a folder");
            let mut follower = open(&dir);
            let (none, mut sent) = send(files, SENDER, &follower, files.size() * tenth / 10).expect("sent");
            assert!(none.is_none());
            if how != Break::Connection {
                drop(follower);
                sent -= damage(how, &dir, files);
                follower = open(&dir);
            }
            let (received, rest) = send(files, SENDER, &follower, u64::MAX).expect("sent");
            assert_eq!(sent + rest, files.size(), "{how:?} after {tenth} tenths");
            let received = received.expect("it is whole");
            let installed = follower.install_snapshot(&received.meta, received.snapshot).await;
            installed.expect("installed");
            assert_eq!(*follower.replicated().read(), expected);
            let left = crate::raft::durable::names(&dir.path().join("state/incoming")).expect("read");
            assert_eq!(left, Vec::<String>::new(), "{how:?} after {tenth} tenths");
            drop(follower);
            assert_eq!(*open(&dir).replicated().read(), expected);
        }
    }
}

/// While a large one is sent, the sender builds the next: what both have is not sent twice.
#[tokio::test]
async fn newer_snapshot_of_the_same_sender_brings_only_what_is_new() {
    let (_dir, mut leader, old) = source().await;
    let dir = tempdir().expect("a folder");
    let mut follower = open(&dir);
    let almost = old.snapshot.size() - PIECE;
    let (none, _) = send(&old.snapshot, SENDER, &follower, almost).expect("sent");
    assert!(none.is_none());
    apply(&mut leader, changes(301, 310)).await;
    let new = build(&mut leader).await;
    let shared: u64 = new
        .snapshot
        .manifest()
        .files
        .iter()
        .filter(|file| file.name.ends_with(".sst") && old.snapshot.manifest().files.contains(file))
        .map(|file| file.len)
        .sum();
    assert!(shared > 0, "tables stay what they are");
    let (received, sent) = send(&new.snapshot, SENDER, &follower, u64::MAX).expect("sent");
    assert!(
        sent <= new.snapshot.size() - shared,
        "{sent} bytes, {shared} were there"
    );
    let received = received.expect("it is whole");
    let installed = follower.install_snapshot(&received.meta, received.snapshot).await;
    installed.expect("installed");
    assert_eq!(*follower.replicated().read(), *leader.replicated().read());
}

#[tokio::test]
async fn what_another_replica_has_sent_is_not_gone_on_with() {
    let (_dir, _leader, snapshot) = source().await;
    let files = &snapshot.snapshot;
    let dir = tempdir().expect("a folder");
    let follower = open(&dir);
    send(files, SENDER, &follower, files.size() / 2).expect("sent");
    assert!(unfinished(&dir, SENDER).exists());
    let (received, sent) = send(files, SENDER + 1, &follower, u64::MAX).expect("sent");
    assert_eq!(sent, files.size());
    assert!(received.is_some());
    assert!(!unfinished(&dir, SENDER).exists());
}

/// A sender that was cut off asks again before its first connection is known to be dead.
#[tokio::test]
async fn later_transfer_takes_the_place_of_one_that_still_goes_on() {
    let (_dir, _leader, snapshot) = source().await;
    let files = &snapshot.snapshot;
    let dir = tempdir().expect("a folder");
    let follower = open(&dir);
    let manifest = files.manifest().clone();
    let mut first = follower.inbox().go_on(SENDER, manifest, &[]).expect("begun");
    let (received, _) = send(files, SENDER, &follower, u64::MAX).expect("sent");
    let refused = first.write(0, 0, b"x").expect_err("refused");
    assert!(matches!(refused, SnapshotError::Superseded), "{refused}");
    assert!(matches!(
        first.finish().map(drop),
        Err(SnapshotError::Length { .. } | SnapshotError::Superseded)
    ));
    assert!(received.is_some());
}

#[tokio::test]
async fn what_does_not_go_on_from_what_is_there_is_refused() {
    let (_dir, _leader, snapshot) = source().await;
    let files = &snapshot.snapshot;
    let dir = tempdir().expect("a folder");
    let follower = open(&dir);
    send(files, SENDER, &follower, files.size() / 2).expect("sent");
    let count = files.manifest().files.len();
    // Nobody has asked what there is, and more than there is.
    let refused = follower
        .inbox()
        .go_on(SENDER, files.manifest().clone(), &vec![1; count]);
    assert!(matches!(refused, Err(SnapshotError::NotHeld { .. })));
    follower.inbox().held(SENDER, files.manifest()).expect("asked");
    let refused = follower
        .inbox()
        .go_on(SENDER, files.manifest().clone(), &vec![1; count]);
    assert!(matches!(refused, Err(SnapshotError::NotHeld { .. })));
}

#[tokio::test]
async fn replica_that_needs_no_snapshot_any_more_keeps_none_that_is_unfinished() {
    let (_dir, _leader, snapshot) = source().await;
    let files = &snapshot.snapshot;
    let dir = tempdir().expect("a folder");
    let mut follower = open(&dir);
    send(files, SENDER, &follower, files.size() / 2).expect("sent");
    apply(&mut follower, changes(1, 300)).await;
    build(&mut follower).await;
    assert!(!unfinished(&dir, SENDER).exists());
}

//! A snapshot on its way to another replica, and into this one: pieces of files over a stream, bounded memory. One that
//! has broken off goes on from there: the other side says first what it holds.
//!
//! Owns the size of a piece and when a transfer counts as stalled. Files are checked by [`super::incoming`].
//! [`send`] is called by [`super::network`], [`held`] and [`receive`] by [`super::peer`].

use super::incoming::{Inbox, Incoming};
use super::link::Peer;
use super::snapshot::{Snapshot, SnapshotError, SnapshotFiles};
use futures::StreamExt;
use proto::wire;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// Bytes of one piece: few calls per file, and small beside what either side holds anyway.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces read ahead of the network.
const AHEAD: usize = 2;
/// Without a piece moving for this long a transfer is given up. A slow disk or network moves one far sooner.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// From the last piece to the answer: the other side syncs the files and loads the whole state.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// For the other side to say what it holds: it reads all of that.
const HELD_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a snapshot did not get through.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransferError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the snapshot has moved no further for {STALL_TIMEOUT:?}")]
    Stalled,
    #[error("the snapshot was sent and is not installed after {INSTALL_TIMEOUT:?}")]
    NotInstalled,
    #[error("the other replica has not said within {HELD_TIMEOUT:?} what it holds of the snapshot")]
    NotSaid,
    #[error("the other replica: {0}")]
    Peer(#[from] Status),
    #[error("a task that reads or writes the snapshot's files has failed")]
    Task,
    #[error("the snapshot's stream begins without its manifest, or has one in its middle")]
    OutOfPlace,
}

/// Sends a snapshot; returns when it is installed there.
pub(super) async fn send(
    mut peer: Peer,
    vote: wire::Vote,
    files: SnapshotFiles,
) -> Result<wire::SnapshotInstalled, TransferError> {
    let mut start = wire::SnapshotStart {
        vote: Some(vote),
        manifest: Some(files.manifest().clone()),
        from: Vec::new(),
    };
    start.from = lacking(&mut peer, &start, &files).await?;
    let (parts, outgoing) = mpsc::channel(AHEAD);
    // The answer comes after the last piece: feeding goes on while it is awaited, never after it.
    let installing = peer.install_snapshot(ReceiverStream::new(outgoing));
    tokio::pin!(installing);
    tokio::select! {
        biased;
        early = &mut installing => return Ok(early?.into_inner()),
        fed = feed(parts, start, files) => fed?,
    }
    match tokio::time::timeout(INSTALL_TIMEOUT, installing).await {
        Ok(installed) => Ok(installed?.into_inner()),
        Err(_) => Err(TransferError::NotInstalled),
    }
}

/// From which byte on each file is to be sent.
async fn lacking(
    peer: &mut Peer,
    start: &wire::SnapshotStart,
    files: &SnapshotFiles,
) -> Result<Vec<u64>, TransferError> {
    let asked = tokio::time::timeout(HELD_TIMEOUT, peer.held_snapshot(start.clone()));
    let held = match asked.await.map_err(|_| TransferError::NotSaid)? {
        Ok(held) => held.into_inner().files,
        // A version that keeps nothing.
        Err(status) if status.code() == Code::Unimplemented => return Ok(Vec::new()),
        Err(status) => return Err(status.into()),
    };
    let of = files.clone();
    let from = blocking(move || of.lacking(&held)).await?;
    let (sent, bytes) = (from.iter().sum::<u64>(), files.size());
    if sent > 0 {
        tracing::info!(sent, bytes, "a snapshot is sent on from where it broke off");
    }
    Ok(from)
}

/// Puts all parts of a snapshot on their way. Ends without an error where the other side stops listening: its
/// answer says why.
async fn feed(
    parts: mpsc::Sender<wire::SnapshotPart>,
    start: wire::SnapshotStart,
    files: SnapshotFiles,
) -> Result<(), TransferError> {
    use wire::snapshot_part::Part;
    let lengths: Vec<u64> = files.manifest().files.iter().map(|file| file.len).collect();
    let from = start.from.clone();
    if !put(&parts, Part::Start(start)).await? {
        return Ok(());
    }
    for (file, len) in (0_u32..).zip(lengths) {
        let mut offset = from.get(file as usize).copied().unwrap_or_default();
        while offset < len {
            let from = files.clone();
            let data = tokio::task::spawn_blocking(move || read(&from, file, offset))
                .await
                .map_err(|_| TransferError::Task)??;
            let read = data.len() as u64;
            if !put(&parts, Part::Piece(wire::SnapshotPiece { file, offset, data })).await? || read == 0 {
                return Ok(());
            }
            offset += read;
        }
    }
    Ok(())
}

fn read(files: &SnapshotFiles, file: u32, offset: u64) -> Result<Vec<u8>, SnapshotError> {
    let mut piece = vec![0; PIECE_BYTES];
    let len = files.read_at(file, offset, &mut piece)?;
    piece.truncate(len);
    Ok(piece)
}

/// Whether the other side still listens.
async fn put(
    parts: &mpsc::Sender<wire::SnapshotPart>,
    part: wire::snapshot_part::Part,
) -> Result<bool, TransferError> {
    let part = wire::SnapshotPart { part: Some(part) };
    match tokio::time::timeout(STALL_TIMEOUT, parts.send(part)).await {
        Ok(sent) => Ok(sent.is_ok()),
        Err(_) => Err(TransferError::Stalled),
    }
}

/// What of a snapshot that is to be sent is in `inbox` already.
pub(super) async fn held(
    inbox: &Inbox,
    start: wire::SnapshotStart,
) -> Result<wire::SnapshotHeld, TransferError> {
    let inbox = inbox.clone();
    let sender = start.vote.map_or(0, |vote| vote.node_id);
    let manifest = start.manifest.unwrap_or_default();
    let files = blocking(move || inbox.held(sender, &manifest)).await?;
    Ok(wire::SnapshotHeld { files })
}

/// Receives a snapshot into `inbox`, whole and checked, with the vote of the leader that sends it.
pub(super) async fn receive(
    inbox: &Inbox,
    mut parts: Streaming<wire::SnapshotPart>,
) -> Result<(Option<wire::Vote>, Snapshot), TransferError> {
    use wire::snapshot_part::Part;
    let Some(Part::Start(start)) = next(&mut parts).await? else {
        return Err(TransferError::OutOfPlace);
    };
    let inbox = inbox.clone();
    let manifest = start.manifest.unwrap_or_default();
    let sender = start.vote.map_or(0, |vote| vote.node_id);
    let mut incoming = blocking(move || inbox.go_on(sender, manifest, &start.from)).await?;
    while let Some(part) = next(&mut parts).await? {
        let Part::Piece(piece) = part else {
            return Err(TransferError::OutOfPlace);
        };
        incoming = blocking(move || write(incoming, piece)).await?;
    }
    let snapshot = blocking(move || incoming.finish()).await?;
    Ok((start.vote, snapshot))
}

fn write(mut incoming: Incoming, piece: wire::SnapshotPiece) -> Result<Incoming, SnapshotError> {
    incoming.write(piece.file, piece.offset, &piece.data)?;
    Ok(incoming)
}

/// The next part; `None` at the end.
async fn next(
    parts: &mut Streaming<wire::SnapshotPart>,
) -> Result<Option<wire::snapshot_part::Part>, TransferError> {
    match tokio::time::timeout(STALL_TIMEOUT, parts.next()).await {
        Err(_) => Err(TransferError::Stalled),
        Ok(None) => Ok(None),
        Ok(Some(part)) => match part?.part {
            Some(part) => Ok(Some(part)),
            None => Err(TransferError::OutOfPlace),
        },
    }
}

/// Off the async threads: it waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, TransferError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| TransferError::Task)??)
}

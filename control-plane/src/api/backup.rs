//! The whole state as a stream of parts, of a moment after the call. Bounded memory: pieces are read from a checkpoint on
//! disk as fast as they are taken.

use super::{Api, Fault};
use crate::access::{Caller, audit};
use crate::clock;
use crate::raft::{SnapshotError, SnapshotFiles};
use proto::backup::Course;
use proto::wire::{self, backup_part::Part};
use tokio::sync::mpsc;

/// Bytes of one piece.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces read ahead of whoever takes them.
const AHEAD: usize = 2;

/// A backup under way.
pub type Parts = mpsc::Receiver<Result<wire::BackupPart, Fault>>;

impl Api {
    /// All that was acknowledged before the call, from the leader; with `stale` what this replica has applied.
    ///
    /// # Errors
    /// [`Fault::NotLeader`] and [`Fault::Read`] unless `stale`; [`Fault::Backup`] where the disk fails.
    pub async fn backup(&self, caller: &Caller, stale: bool) -> Result<Parts, Fault> {
        let captured = self.capture(stale).await;
        audit::note(caller, "back up", "cluster", &captured);
        let files = captured?;
        let (parts, taken) = mpsc::channel(AHEAD);
        let by = self.replica.id();
        tokio::spawn(async move {
            if let Err(fault) = feed(&parts, files, by).await {
                parts.send(Err(fault)).await.ok();
            }
        });
        Ok(taken)
    }

    async fn capture(&self, stale: bool) -> Result<SnapshotFiles, Fault> {
        if !stale {
            let leadership = self.leadership();
            if !leadership.is_self {
                return Err(Fault::NotLeader(leadership.leader));
            }
            self.replica.linearize().await?;
        }
        Ok(self.replica.capture().await?)
    }
}

/// Ends early where nobody takes the parts any more.
async fn feed(
    parts: &mpsc::Sender<Result<wire::BackupPart, Fault>>,
    files: SnapshotFiles,
    by: u64,
) -> Result<(), Fault> {
    let mut course = Course::default();
    let start = Part::Start(wire::BackupStart {
        manifest: Some(files.manifest().clone()),
        taken_at_ms: clock::now().0,
        taken_by: by,
    });
    if !put(parts, &mut course, start).await {
        return Ok(());
    }
    let lengths: Vec<u64> = files.manifest().files.iter().map(|file| file.len).collect();
    for (file, length) in (0..).zip(lengths) {
        let mut offset = 0;
        while offset < length {
            let from = files.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut data = vec![0; PIECE_BYTES];
                let read = from.read_at(file, offset, &mut data)?;
                data.truncate(read);
                Ok::<_, SnapshotError>(data)
            });
            let data = match read.await {
                Ok(Ok(data)) => data,
                Ok(Err(error)) => return Err(Fault::BackupFiles(error)),
                Err(_) => return Err(Fault::Stopping),
            };
            let read = data.len() as u64;
            let piece = Part::Piece(wire::SnapshotPiece { file, offset, data });
            // A file that has become shorter is found out by its checksum.
            if !put(parts, &mut course, piece).await || read == 0 {
                return Ok(());
            }
            offset += read;
        }
    }
    let end = Part::End(course.end());
    put(parts, &mut course, end).await;
    Ok(())
}

async fn put(parts: &mpsc::Sender<Result<wire::BackupPart, Fault>>, course: &mut Course, part: Part) -> bool {
    // What is counted here is checked by those who take it.
    course.take(&part).is_ok()
        && parts
            .send(Ok(wire::BackupPart { part: Some(part) }))
            .await
            .is_ok()
}

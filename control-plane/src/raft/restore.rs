//! From a backup's file to the data folder of the one replica of a new cluster. Made beside its place and renamed at the
//! end: a folder that is there is whole.
//!
//! The new cluster goes on where no replica and no agent of the old one has been. Its terms begin far beyond those that
//! the old one may have reached after the backup: agents refuse what is older than what they have accepted. They are
//! taken from the clock, so that a backup can be restored a second time, beyond the first.

use super::codec::CodecError;
use super::durable::{self, FileError, failed};
use super::error::StoreError;
use super::identity::{self, IdentityError};
use super::log_store::LogStore;
use super::snapshot::{Snapshot, SnapshotError};
use super::stored::Stored;
use super::types::{LeaderId, LogId, Member, Membership, SnapshotMeta, StoredMembership, Vote};
use crate::clock;
use crate::state::{Beginning, Level};
use openraft::errors::MembershipError;
use proto::backup::{BackupError, Course, HEAD_BYTES, Head, MARK};
use proto::wire::{self, backup_part::Part};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Terms and uids that a cluster may use per second of its life before a restored one could meet them: an election takes
/// tenths of a second, and sandboxes are created at some thousands per second at most.
const PER_SECOND_BITS: u32 = 16;
/// Entries that the old cluster may have written after the backup and that a client may have seen.
const INDEX_STEP: u64 = 1 << 24;

/// Why a backup is not restored. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{}: {source}", path.display())]
    Backup { path: PathBuf, source: BackupError },
    #[error("{}: {source}", path.display())]
    Content { path: PathBuf, source: SnapshotError },
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is there already: restore into a new folder", .0.display())]
    Exists(PathBuf),
    #[error(
        "the number {id} was a replica's of the old cluster, and is never used again; the next free one is {next}"
    )]
    Used { id: u64, next: u64 },
    #[error("the membership: {0}")]
    Membership(#[from] MembershipError<u64>),
    #[error("the membership: {0}")]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    File(#[from] FileError),
}

/// What came of a restored backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The number of the new cluster's one replica.
    pub id: u64,
    pub taken_at_ms: u64,
    pub sandboxes: usize,
    pub nodes: usize,
}

/// Makes `data_dir`, which must not be there, of the backup in `path`. The replica that starts with it is a whole cluster
/// at `own`; its number is `id`, or the next that the old cluster did not use. Blocks on the disk; memory is that of the
/// state, as at every start.
///
/// # Errors
/// [`RestoreError`]
pub fn restore(
    path: &Path,
    data_dir: &Path,
    id: Option<u64>,
    own: (String, String),
) -> Result<Restored, RestoreError> {
    if data_dir.exists() {
        return Err(RestoreError::Exists(data_dir.to_owned()));
    }
    let made = data_dir.with_extension("restoring");
    durable::remove_dir(&made)?;
    durable::create_dir(&made)?;
    let restored = make(path, &made, id, own).inspect_err(|_| {
        // What is left is removed by the next attempt.
        durable::remove_dir(&made).ok();
    })?;
    durable::rename(&made, data_dir)?;
    Ok(restored)
}

fn make(path: &Path, dir: &Path, id: Option<u64>, own: (String, String)) -> Result<Restored, RestoreError> {
    let (stored, _) = Stored::open(dir, Level::NEWEST)?;
    let (start, snapshot) = receive(path, &stored)?;
    let old = &snapshot.meta;
    let members: Vec<u64> = old
        .last_membership
        .membership()
        .nodes()
        .map(|(id, _)| *id)
        .collect();
    let (term, last_uid) = beyond(old);
    let index = old.last_log_id.map_or(0, |id| id.index) + INDEX_STEP;
    let beginning = Beginning { index, last_uid };
    let mut restored = Restored {
        id: 0,
        taken_at_ms: start.taken_at_ms,
        sandboxes: 0,
        nodes: 0,
    };
    let position = stored.found(&snapshot.snapshot, |state| {
        let next = state.next_replica(members.iter().copied().max().unwrap_or_default());
        let id = id.unwrap_or(next);
        if members.contains(&id) || state.replica_number(id).is_some() || id == 0 {
            return Err(RestoreError::Used { id, next });
        }
        restored.id = id;
        restored.sandboxes = state.sandboxes().count();
        restored.nodes = state.nodes().count();
        let position = position(id, term, index, own)?;
        Ok((state.restored(members.iter().copied(), beginning), position))
    })?;
    drop(stored);
    if let Some(last) = position.last_log_id {
        let log = LogStore::open(dir)?;
        log.begin_after(&Vote::new(term + 1, restored.id), last)?;
    }
    identity::claim(dir, restored.id)?;
    Ok(restored)
}

/// One voter, at an entry that no log of the old cluster has.
fn position(
    id: u64,
    term: u64,
    index: u64,
    (peer_endpoint, endpoint): (String, String),
) -> Result<SnapshotMeta, RestoreError> {
    let leader_id = LeaderId { term, node_id: id };
    let at = LogId::new(leader_id, index);
    let member = Member {
        peer_endpoint,
        endpoint,
    };
    let membership = Membership::new(vec![BTreeSet::from([id])], BTreeMap::from([(id, member)]))?;
    Ok(SnapshotMeta {
        last_log_id: Some(at),
        last_membership: StoredMembership::new(Some(at), membership),
    })
}

/// A term and a uid that the old cluster can't have reached, and no earlier restoration either.
fn beyond(old: &SnapshotMeta) -> (u64, u64) {
    let seconds = clock::now().0 / 1_000;
    let by_clock = seconds << PER_SECOND_BITS;
    let term = old.last_log_id.map_or(0, |id| id.leader_id.term);
    (by_clock.max(term + (1 << PER_SECOND_BITS)), by_clock)
}

/// All of the file, checked, as a snapshot.
fn receive(path: &Path, stored: &Stored) -> Result<(wire::BackupStart, Snapshot), RestoreError> {
    let bad = |source| RestoreError::Backup {
        path: path.to_owned(),
        source,
    };
    let wrong = |source| RestoreError::Content {
        path: path.to_owned(),
        source,
    };
    let mut parts = Parts::open(path)?;
    let Some(Part::Start(start)) = parts.next()? else {
        return Err(bad(BackupError::OutOfPlace(0)));
    };
    let manifest = start.manifest.clone().unwrap_or_default();
    let mut incoming = stored.inbox().begin(manifest).map_err(wrong)?;
    while let Some(part) = parts.next()? {
        if let Part::Piece(piece) = part {
            incoming
                .write(piece.file, piece.offset, &piece.data)
                .map_err(wrong)?;
        }
    }
    Ok((start, incoming.finish().map_err(wrong)?))
}

/// Reads a backup part by part, up to its end.
struct Parts {
    path: PathBuf,
    from: BufReader<File>,
    at: u64,
    course: Course,
}

impl Parts {
    fn open(path: &Path) -> Result<Self, RestoreError> {
        let file = File::open(path).map_err(failed("open", path))?;
        let mut parts = Self {
            path: path.to_owned(),
            from: BufReader::new(file),
            at: 0,
            course: Course::default(),
        };
        let mut mark = [0; MARK.len()];
        match parts.from.read_exact(&mut mark) {
            Ok(()) if mark == MARK => {}
            Ok(()) => return Err(parts.bad(BackupError::NotOne)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(parts.bad(BackupError::NotOne)),
            Err(e) => return Err(parts.unreadable(e)),
        }
        parts.at = MARK.len() as u64;
        Ok(parts)
    }

    /// `None` behind the end.
    fn next(&mut self) -> Result<Option<Part>, RestoreError> {
        let mut head = [0; HEAD_BYTES];
        if self.course.has_ended() {
            return match self.from.read(&mut head[..1]) {
                Ok(0) => Ok(None),
                Ok(_) => Err(self.bad(BackupError::OutOfPlace(self.at))),
                Err(e) => Err(self.unreadable(e)),
            };
        }
        self.fill(&mut head)?;
        let head = Head::read(head, self.at).map_err(|e| self.bad(e))?;
        let mut content = vec![0; head.bytes];
        self.fill(&mut content)?;
        let part = head.open(&content).map_err(|e| self.bad(e))?;
        self.at += (HEAD_BYTES + head.bytes) as u64;
        self.course.take(&part).map_err(|e| self.bad(e))?;
        Ok(Some(part))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RestoreError> {
        match self.from.read_exact(buffer) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                let length = fs::metadata(&self.path).map_or(self.at, |file| file.len());
                Err(self.bad(BackupError::Cut(length)))
            }
            Err(e) => Err(self.unreadable(e)),
        }
    }

    fn bad(&self, source: BackupError) -> RestoreError {
        let path = self.path.clone();
        RestoreError::Backup { path, source }
    }

    fn unreadable(&self, source: io::Error) -> RestoreError {
        let path = self.path.clone();
        RestoreError::Read { path, source }
    }
}

//! The log on disk: entries, the vote, and how far the log was purged and committed.
//!
//! One RocksDB database, `<data folder>/log`, with two column families:
//!
//! | family | key | value, sealed (see [`codec::seal`]) |
//! |---|---|---|
//! | `logs` | index, 8 bytes big-endian | `wire::Entry` |
//! | `meta` | `vote`, `purged`, `committed` | `wire::Vote`, `wire::LogId`, `wire::LogId` |
//!
//! All writes go to one write-ahead log in their order, at first only into RocksDB's buffer; the thread of
//! [`super::group_commit`] writes and syncs it for all who wait at once. After a crash there is therefore a
//! prefix of what was written, and everything that was acknowledged. A torn end of the write-ahead log is cut
//! off; damage before its end is not: that may have been acknowledged, so the store refuses to open. Removing a
//! conflicting end is synced at once; a purge is not, since only what a durable snapshot covers is purged.
//!
//! Called by openraft alone, which serialises all writes. Reads and writes touch memory except when RocksDB
//! stalls, and run on the async threads.

use super::codec;
use super::compaction::Growth;
use super::durable;
use super::error::StoreError;
use super::group_commit::{GroupCommit, SyncProgress};
use super::rocks::{self, failed};
use super::types::{Entry, LogId, TypeConfig, Vote};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use prost::Message;
use proto::wire;
use rocksdb::{ColumnFamily, DB, DBRecoveryMode, Direction, IteratorMode, WriteBatch};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const LOGS: &str = "logs";
const META: &str = "meta";
const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";

/// What a read for replication or for applying takes into memory at once, in bytes as stored. At least one
/// entry is always read. A fraction of what gRPC decodes at most (4 MiB).
const READ_BYTES: usize = 1 << 20;

/// The log of this replica.
#[derive(Debug)]
pub struct LogStore {
    log: Arc<Log>,
    commits: GroupCommit,
}

/// Reads the log; any number of them beside the store.
#[derive(Debug, Clone)]
pub struct LogReader {
    log: Arc<Log>,
}

#[derive(Debug)]
struct Log {
    db: DB,
    dir: PathBuf,
    ends: Mutex<Ends>,
    growth: Growth,
}

/// The log holds `(purged, last]`; `last` equals `purged` where it is empty.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    purged: Option<LogId>,
    last: Option<LogId>,
}

impl LogStore {
    /// Opens the log below `data_dir`, or begins one. Reads all of it once: a damaged log is found at the
    /// start and not amid an election.
    ///
    /// # Errors
    /// [`StoreError::Open`] where RocksDB finds damage, [`StoreError::Damaged`] and [`StoreError::Hole`] where
    /// a checksum or the sequence is wrong.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let log = Arc::new(Log::open(data_dir.join("log"))?);
        let commits = GroupCommit::start({
            let log = log.clone();
            move || log.db.flush_wal(true).map_err(io::Error::other)
        })
        .map_err(StoreError::Thread)?;
        Ok(Self { log, commits })
    }

    /// How long each sync of the disk took.
    pub(super) fn sync_times(&self) -> prometheus_client::metrics::histogram::Histogram {
        self.commits.times()
    }

    /// How much of what was appended is durable.
    #[must_use]
    pub fn progress(&self) -> SyncProgress {
        self.commits.progress().clone()
    }

    /// How much it has grown, for whoever makes it shorter.
    pub(super) fn growth(&self) -> Growth {
        self.log.growth.clone()
    }

    /// Writes in order, not yet durably. A write that failed may be half done: final.
    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.commits.check()?;
        self.log.db.write(batch).map_err(|e| self.commits.fail(&e).into())
    }

    fn write_meta(&self, key: &'static [u8], value: &impl Message) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.log.family(META)?, key, codec::seal_message(key, value));
        self.write(batch)
    }

    fn append_entries(&self, entries: impl Iterator<Item = Entry>) -> Result<(), StoreError> {
        let logs = self.log.family(LOGS)?;
        let mut batch = WriteBatch::default();
        let mut last = self.log.ends().last;
        let mut grown = Vec::new();
        for entry in entries {
            let log_id = entry.log_id;
            let expected = last.map_or(log_id.index, |last| last.index + 1);
            if log_id.index != expected {
                let got = log_id.index;
                return Err(StoreError::OutOfOrder { expected, got });
            }
            let key = log_id.index.to_be_bytes();
            let sealed = codec::seal_message(&key, &codec::entry(entry));
            batch.put_cf(logs, key, &sealed);
            grown.push((log_id.index, sealed.len() as u64));
            last = Some(log_id);
        }
        self.write(batch)?;
        for (index, bytes) in grown {
            self.log.growth.add(index, bytes);
        }
        self.log.ends().last = last;
        Ok(())
    }

    /// One batch: either all of them are gone after a crash, or none is.
    fn remove_after(&self, last: Option<LogId>) -> Result<(), StoreError> {
        let from = last.map_or(0, |last| last.index + 1);
        let mut ends = *self.log.ends();
        if ends.last.is_none_or(|last| last.index < from) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let logs = self.log.family(LOGS)?;
        batch.delete_range_cf(logs, from.to_be_bytes(), u64::MAX.to_be_bytes());
        self.write(batch)?;
        ends.last = last.max(ends.purged);
        *self.log.ends() = ends;
        Ok(())
    }

    /// One batch: the mark and the entries it covers go together.
    fn remove_through(&self, purged: LogId) -> Result<(), StoreError> {
        let mut ends = *self.log.ends();
        if ends.purged >= Some(purged) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let mark = codec::seal_message(PURGED, &codec::log_id(&purged));
        batch.put_cf(self.log.family(META)?, PURGED, mark);
        let end = purged.index + 1;
        batch.delete_range_cf(self.log.family(LOGS)?, 0_u64.to_be_bytes(), end.to_be_bytes());
        self.write(batch)?;
        ends.purged = Some(purged);
        if ends.last.is_none_or(|last| last.index <= purged.index) {
            ends.last = ends.purged;
        }
        *self.log.ends() = ends;
        Ok(())
    }

    /// Begins an empty log behind `last`, which a state holds already, with a vote; durable at once.
    pub(super) fn begin_after(&self, vote: &Vote, last: LogId) -> Result<(), StoreError> {
        let meta = self.log.family(META)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(meta, VOTE, codec::seal_message(VOTE, &codec::vote(vote)));
        let last_id = codec::log_id(&last);
        batch.put_cf(meta, PURGED, codec::seal_message(PURGED, &last_id));
        batch.put_cf(meta, COMMITTED, codec::seal_message(COMMITTED, &last_id));
        self.write(batch)?;
        self.log.db.flush_wal(true).map_err(failed("sync the log"))?;
        *self.log.ends() = Ends {
            purged: Some(last),
            last: Some(last),
        };
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn syncs(&self) -> u64 {
        self.commits.syncs()
    }

    /// Waits until all that was written so far is durable.
    async fn durable(&self) -> Result<(), io::Error> {
        let (done, synced) = TypeConfig::oneshot();
        self.commits.push(IOFlushed::signal(done));
        synced.await.map_err(io::Error::other)?
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let ends = *self.log.ends();
        Ok(LogState {
            last_purged_log_id: ends.purged,
            last_log_id: ends.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            log: self.log.clone(),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write_meta(VOTE, &codec::vote(vote))?;
        self.durable().await
    }

    /// Not synced: what is lost of it is found again from the leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.write_meta(COMMITTED, &codec::log_id(&committed))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed: Option<wire::LogId> = self.log.meta("the committed position", COMMITTED)?;
        Ok(committed.map(codec::log_id_from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        self.append_entries(entries.into_iter())?;
        self.commits.progress().count_written();
        self.commits.push(callback);
        Ok(())
    }

    /// Durable at once: entries of another leader that came back would contradict a state or a snapshot that
    /// goes further. It happens once per change of leader at most.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.remove_after(last_log_id)?;
        self.durable().await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.remove_through(log_id)?)
    }
}

impl Log {
    fn open(dir: PathBuf) -> Result<Self, StoreError> {
        let mut options = rocks::options(DBRecoveryMode::TolerateCorruptedTailRecords);
        // The sync thread alone writes the buffer out: an append costs no system call.
        options.set_manual_wal_flush(true);
        durable::create_dir(&dir)?;
        let log = Self {
            db: rocks::open(&options, &dir, &[LOGS, META])?,
            dir,
            ends: Mutex::default(),
            growth: Growth::default(),
        };
        let ends = log.read_ends()?;
        *log.ends() = ends;
        Ok(log)
    }

    /// Reads the whole log, checking checksums and sequence. Only the last entry is decoded.
    fn read_ends(&self) -> Result<Ends, StoreError> {
        let purged: Option<wire::LogId> = self.meta("the purged position", PURGED)?;
        let purged = purged.map(codec::log_id_from);
        let mut next = purged.map(|id| id.index + 1);
        let mut newest = None;
        self.scan(next.unwrap_or(0)..u64::MAX, |index, key, value| {
            let expected = next.unwrap_or(index);
            if index != expected {
                return Err(self.hole(expected));
            }
            codec::open(key, value).map_err(self.damaged(format!("log entry {index}")))?;
            next = Some(index + 1);
            newest = Some(index);
            self.growth.add(index, value.len() as u64);
            Ok(true)
        })?;
        let last = match newest {
            Some(index) => self.read(index..index + 1, 1)?.first().map(|entry| entry.log_id),
            None => purged,
        };
        Ok(Ends { purged, last })
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn family(&self, name: &'static str) -> Result<&ColumnFamily, StoreError> {
        // Both were opened; openraft shall stop in order all the same if one were not.
        self.db.cf_handle(name).ok_or(StoreError::NoFamily { name })
    }

    fn hole(&self, index: u64) -> StoreError {
        StoreError::Hole {
            dir: self.dir.clone(),
            index,
        }
    }

    fn damaged(&self, what: String) -> impl FnOnce(codec::CodecError) -> StoreError {
        let dir = self.dir.clone();
        move |source| StoreError::Damaged { what, dir, source }
    }

    fn meta<M: Message + Default>(&self, what: &'static str, key: &[u8]) -> Result<Option<M>, StoreError> {
        let sealed = self
            .db
            .get_pinned_cf(self.family(META)?, key)
            .map_err(failed("read from the log"))?;
        sealed
            .map(|sealed| codec::open_message(what, key, &sealed))
            .transpose()
            .map_err(self.damaged(what.to_owned()))
    }

    /// Visits the stored entries of a range in order, as of now, until `visit` says no.
    fn scan(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, &[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let start = range.start.to_be_bytes();
        let mode = IteratorMode::From(&start, Direction::Forward);
        for item in self.db.iterator_cf(self.family(LOGS)?, mode) {
            let (key, value) = item.map_err(failed("read from the log"))?;
            let index = <[u8; 8]>::try_from(&key[..])
                .map(u64::from_be_bytes)
                .map_err(|_| StoreError::Key {
                    dir: self.dir.clone(),
                    key: key.escape_ascii().to_string(),
                })?;
            if index >= range.end || !visit(index, &key, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn decode(&self, index: u64, key: &[u8], value: &[u8]) -> Result<Entry, StoreError> {
        codec::open_message("log entry", key, value)
            .and_then(codec::entry_from)
            .map_err(self.damaged(format!("log entry {index}")))
    }

    /// The entries of `range` that the log holds, in order and without holes, up to about `bytes`.
    fn read(&self, range: Range<u64>, bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut taken = 0;
        if range.is_empty() {
            return Ok(entries);
        }
        self.scan(range, |index, key, value| {
            if let Some(before) = entries.last()
                && index != before.log_id.index + 1
            {
                return Err(self.hole(before.log_id.index + 1));
            }
            entries.push(self.decode(index, key, value)?);
            taken += value.len();
            Ok(taken < bytes)
        })?;
        Ok(entries)
    }
}

/// Half-open, however it was written.
fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        Ok(self.log.read(half_open(&range), usize::MAX)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote: Option<wire::Vote> = self.log.meta("the vote", VOTE)?;
        Ok(vote.map(codec::vote_from))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.log.read(start..end, READ_BYTES)?)
    }

    /// Piece by piece: a backlog to be applied after a start need not fit into memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures::Stream<Item = Result<Entry, io::Error>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let log = self.log.clone();
        let pieces = futures::stream::try_unfold(half_open(&range), move |range| {
            let piece = log.read(range.clone(), READ_BYTES);
            std::future::ready(piece.map_err(io::Error::from).map(|entries| {
                let next = entries.last()?.log_id.index + 1;
                let entries = entries.into_iter().map(Ok::<_, io::Error>);
                Some((futures::stream::iter(entries), next..range.end))
            }))
        });
        futures::TryStreamExt::try_flatten(pieces)
    }
}

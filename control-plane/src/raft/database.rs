//! The applied state on disk: a RocksDB database that holds the state's records and how far they go.
//!
//! | key | value, sealed (see [`codec::seal`]) |
//! |---|---|
//! | `o` and the state's own key | the state's own value |
//! | `p` | `wire::AppliedPosition` |
//!
//! Records and position of a run of entries are one write, so whatever of them survives a crash is the state
//! after some entry that the log still holds; openraft applies the rest of the log again. One column family: a checkpoint of it is a
//! single moment. Nothing is synced but tables and checkpoints, for the log is.

use super::codec::{self, CodecError};
use super::durable::OwnedDir;
use super::error::StoreError;
use super::rocks::{self, failed};
use super::types::SnapshotMeta;
use crate::state::{self, Level, State, Write};
use proto::wire;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DBRecoveryMode, Direction, IteratorMode, WriteBatch};
use std::path::{Path, PathBuf};

const RECORD: u8 = b'o';
const POSITION: &[u8] = b"p";

/// An open database; its folder goes with it once it is retired.
#[derive(Debug)]
pub(super) struct Database {
    // Before the folder: closed before that may be removed.
    db: DB,
    dir: OwnedDir,
}

/// A key and a value of the state.
type Record = (Vec<u8>, Vec<u8>);

/// What a run of entries writes.
#[derive(Debug, Default)]
pub(super) struct Run {
    writes: Vec<Write>,
    size: usize,
}

impl Run {
    pub(super) fn add(&mut self, writes: Vec<Write>) {
        let size = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, Vec::len);
        self.size += writes.iter().map(size).sum::<usize>();
        self.writes.extend(writes);
    }

    /// Bytes of keys and values.
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

impl Database {
    pub(super) fn create(dir: OwnedDir) -> Result<Self, StoreError> {
        Self::open_with(dir, true)
    }

    /// The database must be there: an empty one in its place would look like a replica without a state.
    pub(super) fn open(dir: OwnedDir) -> Result<Self, StoreError> {
        Self::open_with(dir, false)
    }

    fn open_with(dir: OwnedDir, create: bool) -> Result<Self, StoreError> {
        // What a torn end loses is in the log.
        let mut options = rocks::options(DBRecoveryMode::PointInTime);
        options.create_if_missing(create);
        let db = rocks::open(&options, dir.path(), &[rocksdb::DEFAULT_COLUMN_FAMILY_NAME])?;
        Ok(Self { db, dir })
    }

    pub(super) fn dir(&self) -> &OwnedDir {
        &self.dir
    }

    /// How far the records go.
    pub(super) fn position(&self) -> Result<SnapshotMeta, StoreError> {
        read_position(&self.db, self.dir.path())
    }

    /// Reads all records, where none is of a level beyond `level`.
    pub(super) fn load(&self, level: Level) -> Result<State, StoreError> {
        // First of all: what a newer version has written, this one may not even be able to read.
        state::level::check_state(level, self.level()?)?;
        let mut stopped = None;
        let mode = IteratorMode::From(&[RECORD], Direction::Forward);
        let records = self
            .db
            .iterator(mode)
            .map_while(|item| {
                let record = item.map_err(failed("read the state"));
                record
                    .and_then(|(key, sealed)| self.open_record(&key, &sealed))
                    .unwrap_or_else(|e| {
                        stopped = Some(e);
                        None
                    })
            })
            .fuse();
        let state = State::load(records).map_err(|source| StoreError::Load {
            dir: self.dir.path().to_owned(),
            source,
        });
        stopped.map_or(state, Err)
    }

    /// The level of the state, which may be of a newer version.
    fn level(&self) -> Result<Level, StoreError> {
        let key = [&[RECORD], state::LEVEL_KEY].concat();
        let sealed = self.db.get_pinned(&key).map_err(failed("read the state"))?;
        let Some(sealed) = sealed else {
            return Ok(Level::FIRST);
        };
        let opened = self.open_record(&key, &sealed)?;
        let record = opened.map(|(_, value)| value).unwrap_or_default();
        state::level_of(&record).map_err(|source| StoreError::Damaged {
            what: "the state's level".to_owned(),
            dir: self.dir.path().to_owned(),
            source: CodecError::Protobuf {
                what: "level",
                source,
            },
        })
    }

    /// A record as the state knows it; `None` behind the last one.
    fn open_record(&self, key: &[u8], sealed: &[u8]) -> Result<Option<Record>, StoreError> {
        let Some((&RECORD, name)) = key.split_first() else {
            return Ok(None);
        };
        let value = codec::open(key, sealed).map_err(|source| StoreError::Damaged {
            what: format!("the record `{}`", name.escape_ascii()),
            dir: self.dir.path().to_owned(),
            source,
        })?;
        Ok(Some((name.to_vec(), value.to_vec())))
    }

    /// All of a run and the position after it, or nothing.
    pub(super) fn write(&self, run: Run, position: &SnapshotMeta) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for Write { key, value } in run.writes {
            let key = [&[RECORD], &key[..]].concat();
            match value {
                Some(value) => batch.put(&key, codec::seal(&key, &value)),
                None => batch.delete(&key),
            }
        }
        batch.put(
            POSITION,
            codec::seal_message(POSITION, &codec::position(position)),
        );
        self.db.write(batch).map_err(failed("write the state"))
    }

    /// The database as of now in a folder that must not exist: tables linked, the rest copied.
    pub(super) fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        Checkpoint::new(&self.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(failed("take a checkpoint of the state"))
    }
}

/// How far the checkpoint in `dir` goes. RocksDB's own log of the look goes to `scratch`: the checkpoint stays
/// as it is.
pub(super) fn position_of(dir: &Path, scratch: &Path) -> Result<SnapshotMeta, StoreError> {
    let mut options = rocks::options(DBRecoveryMode::PointInTime);
    options.create_if_missing(false);
    options.set_db_log_dir(scratch);
    let db = DB::open_for_read_only(&options, dir, false).map_err(|source| StoreError::Open {
        dir: dir.to_owned(),
        source,
    })?;
    read_position(&db, dir)
}

fn read_position(db: &DB, dir: &Path) -> Result<SnapshotMeta, StoreError> {
    let damaged = |source| StoreError::Damaged {
        what: "the applied position".to_owned(),
        dir: PathBuf::from(dir),
        source,
    };
    let sealed = db.get_pinned(POSITION).map_err(failed("read the state"))?;
    let Some(sealed) = sealed else {
        return Ok(SnapshotMeta::default());
    };
    let position: wire::AppliedPosition =
        codec::open_message("position", POSITION, &sealed).map_err(damaged)?;
    codec::position_from(position).map_err(damaged)
}

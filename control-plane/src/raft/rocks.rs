//! RocksDB as both stores use it: bounded memory, few files, and errors that name the act and the folder.
//!
//! A replica's budget is 1 GiB with 100,000 sandboxes, most of it for the state in memory, and small clusters
//! run on 2 GiB machines beside sandboxes; each database is held to about 50 MiB.

use super::error::StoreError;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, LogLevel, Options};
use std::path::Path;

/// Blocks of tables in memory. Readers are the log's replication to a slow follower and a start; both go
/// through once, so more would hold nothing that is read again.
const BLOCK_CACHE: usize = 8 << 20;
/// One memtable: every flush writes a table and syncs it, so not too small.
const MEMTABLE: usize = 8 << 20;
/// One that is filled, one that is flushed.
const MEMTABLES: i32 = 2;
/// A column family that is hardly ever written keeps old write-ahead logs alive until it is flushed; beyond
/// this RocksDB flushes it. Bounds disk use and the time of a start.
const ALL_WALS: u64 = 64 << 20;
/// Open tables cost memory for their index; a database of ours has some dozens.
const OPEN_FILES: i32 = 256;
/// One flush and one compaction at a time: writes are few, cores too.
const BACKGROUND_JOBS: i32 = 2;
/// RocksDB's own text log: enough for the last start and what it complained about.
const INFO_LOG: usize = 1 << 20;
const INFO_LOGS: usize = 2;
/// Tables are written back in pieces of this size, so that a sync of the log need not wait for a whole one.
const WRITE_BACK: u64 = 1 << 20;

/// Names the act of a RocksDB error.
pub(super) fn failed(act: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
    move |source| StoreError::Database { act, source }
}

pub(super) fn options(recovery: DBRecoveryMode) -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE));
    // Indexes count against the cache instead of growing with the number of tables.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_block_based_table_factory(&tables);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(MEMTABLE);
    options.set_max_write_buffer_number(MEMTABLES);
    options.set_max_total_wal_size(ALL_WALS);
    options.set_max_open_files(OPEN_FILES);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_bytes_per_sync(WRITE_BACK);
    options.set_wal_recovery_mode(recovery);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(INFO_LOG);
    options.set_keep_log_file_num(INFO_LOGS);
    options.set_stats_dump_period_sec(0);
    options
}

/// Opens or creates the database in `dir`.
pub(super) fn open(options: &Options, dir: &Path, families: &[&str]) -> Result<DB, StoreError> {
    let families = families.iter().map(|name| (*name, options.clone()));
    DB::open_cf_with_opts(options, dir, families).map_err(|source| StoreError::Open {
        dir: dir.to_owned(),
        source,
    })
}

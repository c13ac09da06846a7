//! Keeps what one container writes. Bounded in memory (one piece per stream) and on disk; a disk that is
//! full costs lines, which are counted and told about, and never stops the container.
//!
//! Synchronous: the monitor calls it from its only thread.

use super::line::{Record, Stream, since_epoch};
use super::{LogsError, MAX_FILE, MAX_PIECE, files};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Logs may hold secrets: no user of the node has business here.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The longest record: a piece with its time, stream and tag.
const MAX_RECORD: u64 = MAX_PIECE as u64 + 64;
/// Records that are gathered before they are written with one call.
const BATCH: usize = 64 << 10;

/// The writing end of a container's logs; one per folder at any time.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    file: File,
    /// Of `file`; all below is whole records.
    length: u64,
    limit: u64,
    pending: [Pending; 2],
    /// When bytes came last.
    latest: Duration,
    batch: Vec<u8>,
    /// Records in `batch`.
    batched: u64,
    /// Records that could not be written and were not told about yet.
    untold: u64,
    lost: u64,
    /// Bytes of records since it was opened, kept or not.
    written: u64,
}

/// The beginning of a line whose end has not come yet: at most one piece.
#[derive(Debug, Default)]
struct Pending {
    text: Vec<u8>,
    since: Duration,
}

impl Writer {
    /// Opens the folder, made where it is missing, and goes on where a former writer has ended.
    ///
    /// # Errors
    /// [`LogsError::Open`].
    pub fn open(dir: &Path) -> Result<Self, LogsError> {
        Self::with_limit(dir, MAX_FILE)
    }

    pub(super) fn with_limit(dir: &Path, limit: u64) -> Result<Self, LogsError> {
        let path = files::path(dir, 0);
        let failed = |source| LogsError::Open {
            path: path.clone(),
            source,
        };
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(FOLDER_MODE);
        folder.create(dir).map_err(failed)?;
        let mut file = create(&path).map_err(failed)?;
        let length = whole_records(&mut file).map_err(failed)?;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            length,
            limit,
            pending: Default::default(),
            latest: Duration::ZERO,
            batch: Vec::new(),
            batched: 0,
            untold: 0,
            lost: 0,
            written: 0,
        })
    }

    /// Keeps `bytes`, which were read from `stream` at `now`. Lines of which the end is still to come are
    /// held back until they are ended or a piece is full.
    ///
    /// # Errors
    /// [`LogsError::Write`] and [`LogsError::Rotate`]: lines were lost. The writer stays usable.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8], now: SystemTime) -> Result<(), LogsError> {
        let now = since_epoch(now);
        self.latest = now;
        let mut outcome = Ok(());
        while !bytes.is_empty() {
            let pending = &mut self.pending[stream as usize];
            if pending.text.is_empty() {
                pending.since = now;
            }
            let room = MAX_PIECE - pending.text.len();
            let line = bytes.iter().take(room + 1).position(|b| *b == b'\n');
            let take = line.unwrap_or(bytes.len().min(room));
            pending.text.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take + usize::from(line.is_some())..];
            // A full piece is the line's last one where its newline comes next, so that none is empty.
            let is_full = pending.text.len() == MAX_PIECE && !bytes.is_empty();
            if line.is_some() || is_full {
                outcome = outcome.and(self.end_piece(stream, line.is_none()));
            }
        }
        outcome.and(self.flush())
    }

    /// The stream has ended: what it has begun is a line.
    ///
    /// # Errors
    /// As of [`Self::write`].
    pub fn finish(&mut self, stream: Stream) -> Result<(), LogsError> {
        if self.pending[stream as usize].text.is_empty() {
            return Ok(());
        }
        self.end_piece(stream, false).and(self.flush())
    }

    /// Lines and pieces that could not be kept.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes of records that were made since it was opened, also of those that could not be kept.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    fn end_piece(&mut self, stream: Stream, partial: bool) -> Result<(), LogsError> {
        let pending = &mut self.pending[stream as usize];
        let record = Record {
            time: pending.since,
            stream,
            partial,
            text: &pending.text,
        };
        record.render(&mut self.batch);
        self.batched += 1;
        pending.text.clear();
        let is_full = self.length + self.batch.len() as u64 >= self.limit;
        if is_full || self.batch.len() >= BATCH {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes what was gathered, as a whole or not at all, into the next file where this one is full.
    fn flush(&mut self) -> Result<(), LogsError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let written = self.make_room().and_then(|()| self.append_batch());
        if written.is_err() {
            self.lost += self.batched;
            self.untold += self.batched;
        }
        self.written += self.batch.len() as u64;
        self.batch.clear();
        self.batched = 0;
        written
    }

    /// A gap is never silent: what was lost is told of together with what comes after it.
    fn append_batch(&mut self) -> Result<(), LogsError> {
        self.batch.splice(0..0, self.notice());
        append(&mut self.file, self.length, &self.batch).map_err(|source| LogsError::Write {
            path: files::path(&self.dir, 0),
            source,
        })?;
        self.length += self.batch.len() as u64;
        self.untold = 0;
        Ok(())
    }

    /// Empty where nothing was lost.
    fn notice(&self) -> Vec<u8> {
        let mut notice = Vec::new();
        if self.untold > 0 {
            let text = format!("[sandboxd] lines lost because the disk was full: {}", self.untold);
            Record {
                time: self.latest,
                stream: Stream::Stderr,
                partial: false,
                text: text.as_bytes(),
            }
            .render(&mut notice);
        }
        notice
    }

    /// Where it fails, what is there stays, and the next call tries again.
    fn make_room(&mut self) -> Result<(), LogsError> {
        if self.length < self.limit {
            return Ok(());
        }
        let path = files::path(&self.dir, 0);
        let next = files::path_of_next(&self.dir);
        let begun = create(&next).and_then(|file| files::rotate(&self.dir).map(|()| file));
        match begun {
            Ok(file) => {
                self.file = file;
                self.length = 0;
                Ok(())
            }
            Err(source) => Err(LogsError::Rotate { path, source }),
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
}

/// Writes at `end`; where only a part fits, that is taken back.
fn append(file: &mut File, end: u64, bytes: &[u8]) -> io::Result<()> {
    let written = file
        .seek(SeekFrom::Start(end))
        .and_then(|_| file.write_all(bytes));
    if written.is_err() {
        file.set_len(end)?;
    }
    written
}

/// Where the last whole record ends. What a kill or power cut has left behind it is ended where that makes
/// it one, else cut off.
fn whole_records(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(MAX_RECORD);
    let mut last = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.read_to_end(&mut last)?;
    let torn = last.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    if torn.is_empty() {
        return Ok(length);
    }
    if Record::parse(torn).is_some() {
        append(file, length, b"\n")?;
        return Ok(length + 1);
    }
    let whole = length - torn.len() as u64;
    file.set_len(whole)?;
    Ok(whole)
}

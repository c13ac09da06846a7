//! Reads the folder of one container from its oldest record to its newest, and on from there, across
//! rotations: whole lines, each once. Bounded in memory however long a line is.
//!
//! Blocks on the disk only, never for new output. Called by `merge`.

use super::files::{self, Identity};
use super::line::{Line, Record, Stream};
use super::{LogsError, Query};
use proto::id::Name;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

/// Read at once; several times the longest record.
const CHUNK: usize = 64 << 10;
/// The longest line that is put together from its pieces; of a longer one each part is given out as a line.
const MAX_LINE: usize = 256 << 10;
/// Told where files went before they were read: no gap is silent.
const GAP: &str = "[sandboxd] lines may be missing here: they were written faster than they were read";

#[derive(Debug)]
pub(super) struct Reader {
    container: Name,
    dir: PathBuf,
    since: Duration,
    /// Lines that are left out before the first one that is given out.
    skip: u64,
    current: Option<Open>,
    /// Files that follow the current one, oldest first.
    later: VecDeque<(Identity, File)>,
    /// Nothing is read behind it, however fast is written on.
    end: Option<End>,
    /// Files that come later are not read.
    is_bounded: bool,
    joining: [Option<Joining>; 2],
    /// Of the last record.
    latest: Duration,
    chunk: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    identity: Identity,
    file: File,
    /// Behind the last record that was read.
    position: u64,
    /// There is a newer file, so that this one does not grow any more.
    sealed: bool,
}

/// A place in the newest file of some moment.
#[derive(Debug, Clone, Copy)]
struct End {
    identity: Identity,
    position: u64,
}

impl End {
    /// `None` where there are no files.
    fn of(files: &[(Identity, File)]) -> io::Result<Option<Self>> {
        let newest = files.last();
        let end = newest.map(|(identity, file)| {
            let position = file.metadata()?.len();
            Ok(Self {
                identity: *identity,
                position,
            })
        });
        end.transpose()
    }
}

/// The pieces so far of a line.
#[derive(Debug)]
struct Joining {
    time: Duration,
    text: Vec<u8>,
}

impl Reader {
    /// Opens a folder. One that is not there has no lines, until it is.
    ///
    /// # Errors
    /// [`LogsError::Open`], and with [`Query::tail`] [`LogsError::Read`].
    pub(super) fn open(container: Name, dir: PathBuf, query: &Query) -> Result<Self, LogsError> {
        let failed = |source| LogsError::Open {
            path: dir.clone(),
            source,
        };
        let files = files::open_all(&dir).map_err(failed)?;
        let copy = |(identity, file): &(Identity, File)| file.try_clone().map(|file| (*identity, file));
        let end = End::of(&files).map_err(failed)?;
        let mut skip = 0;
        if let Some(tail) = query.tail {
            let same = files
                .iter()
                .map(copy)
                .collect::<io::Result<_>>()
                .map_err(failed)?;
            let counter = Self {
                end,
                ..Self::of(container.clone(), dir.clone(), query.since, same)
            };
            skip = counter.count()?.saturating_sub(tail);
        }
        let mut reader = Self {
            skip,
            ..Self::of(container, dir, query.since, files.into())
        };
        if !query.follow {
            reader.end = end;
            reader.is_bounded = true;
        }
        Ok(reader)
    }

    fn of(container: Name, dir: PathBuf, since: Duration, later: VecDeque<(Identity, File)>) -> Self {
        Self {
            container,
            dir,
            since,
            skip: 0,
            current: None,
            later,
            end: None,
            is_bounded: false,
            joining: [None, None],
            latest: Duration::ZERO,
            chunk: Vec::new(),
        }
    }

    /// Lines in the files that are open already.
    fn count(mut self) -> Result<u64, LogsError> {
        let (mut count, mut lines) = (0, VecDeque::new());
        loop {
            while self.read_chunk(&mut lines)? {
                count += lines.drain(..).len() as u64;
            }
            if !self.begin_next() {
                self.finish(&mut lines);
                return Ok(count + lines.len() as u64);
            }
        }
    }

    /// Reads on, and appends to `out` what has become whole: some lines, or none yet. False: all that is
    /// there at present was read.
    ///
    /// # Errors
    /// [`LogsError::Open`] and [`LogsError::Read`].
    pub(super) fn read(&mut self, out: &mut VecDeque<Line>) -> Result<bool, LogsError> {
        loop {
            if self.read_chunk(out)? {
                return Ok(true);
            }
            let is_final = self.current.as_ref().is_none_or(|open| open.sealed);
            if is_final && self.begin_next() {
                continue;
            }
            if !self.find_later(out)? {
                return Ok(false);
            }
        }
    }

    /// Nothing will be written any more: what was begun is a line.
    pub(super) fn finish(&mut self, out: &mut VecDeque<Line>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end_line(stream, out);
        }
    }

    /// False: the current file has no further whole record.
    fn read_chunk(&mut self, out: &mut VecDeque<Line>) -> Result<bool, LogsError> {
        let Some(open) = &mut self.current else {
            return Ok(false);
        };
        self.chunk.resize(CHUNK, 0);
        let mut chunk = std::mem::take(&mut self.chunk);
        let end = self.end.filter(|end| end.identity == open.identity);
        let room = end.map_or(u64::MAX, |end| end.position.saturating_sub(open.position));
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(CHUNK);
        let length =
            read_at(&open.file, &mut chunk[..room], open.position).map_err(|source| LogsError::Read {
                path: self.dir.clone(),
                source,
            })?;
        let end = match chunk[..length].iter().rposition(|b| *b == b'\n') {
            Some(newline) => newline + 1,
            // No record is that long: it is none.
            None if length == CHUNK => length,
            None => 0,
        };
        open.position += end as u64;
        for line in chunk[..end].split_inclusive(|b| *b == b'\n') {
            if let Some(record) = line.strip_suffix(b"\n").and_then(Record::parse) {
                self.add(record, out);
            }
        }
        self.chunk = chunk;
        Ok(end > 0)
    }

    fn add(&mut self, record: Record<'_>, out: &mut VecDeque<Line>) {
        self.latest = record.time;
        let joining = self.joining[record.stream as usize].get_or_insert_with(|| Joining {
            time: record.time,
            text: Vec::new(),
        });
        joining.text.extend_from_slice(record.text);
        if !record.partial || joining.text.len() >= MAX_LINE {
            self.end_line(record.stream, out);
        }
    }

    fn end_line(&mut self, stream: Stream, out: &mut VecDeque<Line>) {
        let Some(Joining { time, text }) = self.joining[stream as usize].take() else {
            return;
        };
        if time < self.since {
            return;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        out.push_back(Line {
            container: self.container.clone(),
            stream,
            time,
            text,
        });
    }

    /// Between the last record and the next one there may have been others.
    fn tell_gap(&mut self, out: &mut VecDeque<Line>) {
        self.finish(out);
        out.push_back(Line {
            container: self.container.clone(),
            stream: Stream::Stderr,
            // Behind that record, whose time may be that of several.
            time: self.latest + Duration::from_nanos(1),
            text: GAP.as_bytes().to_vec(),
        });
    }

    /// Goes on to the file that follows; false: none is known.
    fn begin_next(&mut self) -> bool {
        let Some((identity, file)) = self.later.pop_front() else {
            return false;
        };
        self.current = Some(Open {
            identity,
            file,
            position: 0,
            sealed: !self.later.is_empty(),
        });
        true
    }

    /// Looks for files that have come since; false: there are none.
    fn find_later(&mut self, out: &mut VecDeque<Line>) -> Result<bool, LogsError> {
        if self.is_bounded {
            return Ok(false);
        }
        let failed = |source| LogsError::Open {
            path: self.dir.clone(),
            source,
        };
        let identity = self.current.as_ref().map(|open| open.identity);
        if files::current(&self.dir).map_err(failed)? == identity {
            return Ok(false);
        }
        let mut files = VecDeque::from(files::open_all(&self.dir).map_err(failed)?);
        // Where the current one has gone already, all others are newer.
        let at = files.iter().position(|(found, _)| Some(*found) == identity);
        if let Some(at) = at {
            files.drain(..=at);
        }
        if files.is_empty() {
            return Ok(false);
        }
        self.later = files;
        if at.is_none() && identity.is_some() {
            // What is left of the current one is read first.
            while self.read_chunk(out)? {}
            self.tell_gap(out);
        }
        // What was written to it between the last look and the rotation is read before the next one begins.
        if let Some(open) = &mut self.current {
            open.sealed = true;
        }
        Ok(true)
    }
}

/// Reads until `chunk` is full or the file ends.
fn read_at(file: &File, chunk: &mut [u8], position: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < chunk.len() {
        match file.read_at(&mut chunk[length..], position + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(length)
}

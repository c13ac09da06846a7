//! The format of one record: time, stream, tag, text.

use proto::id::Name;
use proto::wire;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where a container has written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of a container's output, or a piece of one that is too long to be given out as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub container: Name,
    pub stream: Stream,
    /// When its first byte was written; since the Unix epoch.
    pub time: Duration,
    /// Without its newline.
    pub text: Vec<u8>,
}

/// What one line of a log file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) time: Duration,
    pub(super) stream: Stream,
    /// More of the same line follows in the stream's next record.
    pub(super) partial: bool,
    pub(super) text: &'a [u8],
}

impl Stream {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl From<Line> for wire::LogLine {
    fn from(line: Line) -> Self {
        Self {
            container: line.container.to_string(),
            stderr: line.stream == Stream::Stderr,
            time_unix_ns: u64::try_from(line.time.as_nanos()).unwrap_or(u64::MAX),
            line: line.text,
        }
    }
}

impl<'a> Record<'a> {
    /// Appends the record to `out`, its newline included.
    pub(super) fn render(&self, out: &mut Vec<u8>) {
        let time = humantime::format_rfc3339_nanos(UNIX_EPOCH + self.time);
        let tag = if self.partial { "P" } else { "F" };
        // Writing into memory can't fail.
        let _ = write!(out, "{time} {} {tag} ", self.stream.as_str());
        out.extend_from_slice(self.text);
        out.push(b'\n');
    }

    /// Reads one line of a file, without its newline. `None`: a record that was cut off by a kill or a
    /// full disk.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = word(line)?;
        let (stream, rest) = word(rest)?;
        let (tag, text) = word(rest)?;
        let time = humantime::parse_rfc3339(std::str::from_utf8(time).ok()?).ok()?;
        Some(Self {
            time: since_epoch(time),
            stream: match stream {
                b"stdout" => Stream::Stdout,
                b"stderr" => Stream::Stderr,
                _ => return None,
            },
            partial: match tag {
                b"P" => true,
                b"F" => false,
                _ => return None,
            },
            text,
        })
    }
}

/// A clock that stands before 1970 counts as 1970.
pub(super) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(|b| *b == b' ')?;
    Some((&line[..end], &line[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &[u8], partial: bool, stream: Stream) -> Record<'_> {
        Record {
            time: Duration::new(1_767_323_045, 123_456_789),
            stream,
            partial,
            text,
        }
    }

    #[track_caller]
    fn check_round_trip(record: Record<'_>, want: &[u8]) {
        let mut bytes = Vec::new();
        record.render(&mut bytes);
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(want));
        assert_eq!(Record::parse(bytes.trim_ascii_end()), Some(record));
    }

    #[test]
    fn records_are_written_and_read_in_the_format_of_the_cri() {
        check_round_trip(
            record(b"hello  world", false, Stream::Stdout),
            b"2026-01-02T03:04:05.123456789Z stdout F hello  world\n",
        );
        check_round_trip(
            record(b"a\xff\0b", true, Stream::Stderr),
            b"2026-01-02T03:04:05.123456789Z stderr P a\xff\0b\n",
        );
        let empty = record(b"", false, Stream::Stdout);
        let mut bytes = Vec::new();
        empty.render(&mut bytes);
        assert_eq!(bytes, b"2026-01-02T03:04:05.123456789Z stdout F \n");
        assert_eq!(Record::parse(&bytes[..bytes.len() - 1]), Some(empty));
    }

    #[test]
    fn record_that_was_cut_off_is_none() {
        for line in [
            "",
            "2026-01-02T03:04:05.1",
            "2026-01-02T03:04:05.123456789Z stdout",
            "2026-01-02T03:04:05.123456789Z stdout F",
            "2026-01-02T03:04:05.123456789Z stdin F x",
            "2026-01-02T03:04:05.123456789Z stdout X x",
            "yesterday stdout F x",
        ] {
            assert_eq!(Record::parse(line.as_bytes()), None, "{line:?}");
        }
    }
}

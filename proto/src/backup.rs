//! A backup of a cluster as a file: a mark, then frames, each with its length and checksum. Pure: turns parts into bytes
//! and bytes into parts, and says what is wrong with them; reading and writing is done by its callers.
//!
//! ```text
//! SBXBKUP1                                     8 bytes
//! length, CRC-32 of the frame's content       4 bytes each, little-endian
//! wire::BackupPart                            start, pieces in the manifest's order of files, end
//! ```
//!
//! A file that has no end was cut off; one that is changed anywhere is refused with the byte at which that was seen.

use crate::wire::{self, backup_part::Part};
use prost::Message;

/// The first bytes of every backup of this form.
pub const MARK: [u8; 8] = *b"SBXBKUP1";
/// Bytes before the content of a frame.
pub const HEAD_BYTES: usize = 8;
/// Of one frame's content: a manifest of the most files that a snapshot has is below 4 MiB, a piece below 1 MiB.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// Why bytes are no backup, or none that may be used. Places are counted in bytes from the file's begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    #[error("it is no backup of a sandboxd cluster, or one of a version that this program does not know")]
    NotOne,
    #[error("it is damaged at byte {at}: checksum {computed:08x} instead of {expected:08x}")]
    Checksum { at: u64, computed: u32, expected: u32 },
    #[error("it is damaged at byte {at}: a frame of {bytes} bytes, and {MAX_FRAME_BYTES} are the most")]
    Length { at: u64, bytes: u32 },
    #[error("it is damaged at byte {at}: {source}")]
    Content { at: u64, source: prost::DecodeError },
    #[error("it ends at byte {0} without its end: it was cut off")]
    Cut(u64),
    #[error("it is damaged: part {0} is not where it belongs")]
    OutOfPlace(u64),
    #[error("it holds {pieces} pieces with {bytes} bytes, and its end says {of_pieces} with {of_bytes}")]
    Sum {
        pieces: u64,
        bytes: u64,
        of_pieces: u64,
        of_bytes: u64,
    },
}

/// One part as it stands in the file.
#[must_use]
pub fn frame(part: &wire::BackupPart) -> Vec<u8> {
    let content = part.encode_to_vec();
    let mut frame = Vec::with_capacity(HEAD_BYTES + content.len());
    // Parts are far below 4 GiB: their makers bound them.
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
    frame.extend_from_slice(&content);
    frame
}

/// What stands before a frame's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the content.
    pub bytes: usize,
    checksum: u32,
    at: u64,
}

impl Head {
    /// Of the frame that begins at byte `at`.
    ///
    /// # Errors
    /// [`BackupError::Length`]
    pub fn read(head: [u8; HEAD_BYTES], at: u64) -> Result<Self, BackupError> {
        let [a, b, c, d, e, f, g, h] = head;
        let bytes = u32::from_le_bytes([a, b, c, d]);
        let length = usize::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= MAX_FRAME_BYTES);
        Ok(Self {
            bytes: length.ok_or(BackupError::Length { at, bytes })?,
            checksum: u32::from_le_bytes([e, f, g, h]),
            at,
        })
    }

    /// The part that the content is.
    ///
    /// # Errors
    /// [`BackupError::Checksum`] and [`BackupError::Content`]
    pub fn open(&self, content: &[u8]) -> Result<Part, BackupError> {
        let (at, expected) = (self.at, self.checksum);
        let computed = crc32fast::hash(content);
        if computed != expected {
            return Err(BackupError::Checksum {
                at,
                computed,
                expected,
            });
        }
        let part = wire::BackupPart::decode(content).map_err(|source| BackupError::Content { at, source })?;
        part.part.ok_or(BackupError::OutOfPlace(at))
    }
}

/// Follows the parts of a backup: first the start, last the end, which says how much there must be between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Course {
    parts: u64,
    pieces: u64,
    /// Of all pieces.
    pub bytes: u64,
    ended: bool,
}

impl Course {
    /// # Errors
    /// [`BackupError::OutOfPlace`] and [`BackupError::Sum`]
    pub fn take(&mut self, part: &Part) -> Result<(), BackupError> {
        let first = self.parts == 0;
        let wrong = BackupError::OutOfPlace(self.parts);
        self.parts += 1;
        match part {
            Part::Start(_) if first => Ok(()),
            Part::Piece(piece) if !first && !self.ended => {
                self.pieces += 1;
                self.bytes += piece.data.len() as u64;
                Ok(())
            }
            Part::End(end) if !first && !self.ended => {
                self.ended = true;
                if (end.pieces, end.bytes) == (self.pieces, self.bytes) {
                    return Ok(());
                }
                Err(BackupError::Sum {
                    pieces: self.pieces,
                    bytes: self.bytes,
                    of_pieces: end.pieces,
                    of_bytes: end.bytes,
                })
            }
            Part::Start(_) | Part::Piece(_) | Part::End(_) => Err(wrong),
        }
    }

    /// The end that belongs here.
    #[must_use]
    pub fn end(&self) -> wire::BackupEnd {
        wire::BackupEnd {
            pieces: self.pieces,
            bytes: self.bytes,
        }
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(data: &[u8]) -> Part {
        Part::Piece(wire::SnapshotPiece {
            file: 0,
            offset: 0,
            data: data.to_vec(),
        })
    }

    fn read(frame: &[u8]) -> Result<Part, BackupError> {
        let (head, content) = frame.split_first_chunk().expect("a head");
        Head::read(*head, 8)?.open(content)
    }

    #[test]
    fn part_is_read_back_and_every_changed_bit_is_found() {
        let part = piece(b"state");
        let whole = frame(&wire::BackupPart {
            part: Some(part.clone()),
        });
        assert_eq!(read(&whole), Ok(part));
        for byte in 4..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[byte] ^= 1 << bit;
                let error = read(&damaged).expect_err("it is damaged");
                assert!(matches!(error, BackupError::Checksum { at: 8, .. }), "{error}");
            }
        }
        let long = Head::read([0, 0, 0, 1, 0, 0, 0, 0], 8);
        assert_eq!(
            long,
            Err(BackupError::Length {
                at: 8,
                bytes: 1 << 24,
            })
        );
    }

    #[test]
    fn parts_come_in_their_order_and_as_many_as_the_end_says() {
        let start = Part::Start(wire::BackupStart::default());
        let end = |pieces, bytes| Part::End(wire::BackupEnd { pieces, bytes });
        let follow = |parts: &[Part]| {
            let mut course = Course::default();
            parts
                .iter()
                .try_for_each(|part| course.take(part))
                .map(|()| course.has_ended())
        };
        assert_eq!(follow(&[start.clone(), piece(b"ab"), end(1, 2)]), Ok(true));
        assert_eq!(follow(&[start.clone(), piece(b"ab")]), Ok(false));
        assert_eq!(follow(&[piece(b"ab")]), Err(BackupError::OutOfPlace(0)));
        assert_eq!(
            follow(&[start.clone(), start.clone()]),
            Err(BackupError::OutOfPlace(1))
        );
        assert_eq!(
            follow(&[start.clone(), end(0, 0), piece(b"")]),
            Err(BackupError::OutOfPlace(2))
        );
        assert!(matches!(
            follow(&[start, end(1, 2)]),
            Err(BackupError::Sum { .. })
        ));
    }
}

//! Reads the members of a tar archive with every header bounded: a hostile archive can name a path of
//! gigabytes, which readers for trusted archives load into memory.
//!
//! Knows nothing of what members mean or where they go. Called by [`super::unpack`] and [`super::import`].

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Of one extension header; real ones carry a path and a few attributes. The kernel bounds a path at 4 KiB
/// and an attribute at 64 KiB.
const MAX_EXTENSION: u64 = 1 << 20;

/// What an archive may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Decompressed, headers included.
    pub(super) bytes: u64,
    pub(super) members: u64,
}

/// Why an archive can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveFault {
    #[error("cannot read the archive: {0}")]
    Read(#[source] io::Error),
    #[error("is more than {0} bytes when unpacked, which is refused")]
    TooLarge(u64),
    #[error("has more than {0} members, which is refused")]
    TooMany(u64),
    #[error("has a header of {0} bytes, which is refused")]
    LongHeader(u64),
    #[error("has a malformed extension header")]
    Extension,
    #[error("`{path}` has its size given twice and differently")]
    AmbiguousSize { path: PathBuf },
    #[error("`{path}` is a sparse file, which layers of images cannot have")]
    Sparse { path: PathBuf },
    #[error("`{path}` has {what} that is out of range")]
    Number { path: PathBuf, what: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MemberKind {
    Directory,
    File,
    Symlink(PathBuf),
    HardLink(PathBuf),
    Fifo,
    /// A character or block device.
    Device,
    /// A type that no layer has.
    Unknown(u8),
}

/// One member, its extension headers applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// As in the archive: may be absolute or contain `..`.
    pub(super) path: PathBuf,
    pub(super) kind: MemberKind,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since the Unix epoch.
    pub(super) mtime: (i64, i64),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The plain bytes of `reader`, which may be compressed with gzip or zstd: its first bytes tell.
pub(super) fn decompressed<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    Ok(match reader.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(reader)?),
        _ => Box::new(reader),
    })
}

/// Calls `each` for every member, with its content. Reads `reader` to its end, also behind the archive's.
///
/// # Errors
/// [`ArchiveFault`] for the archive's own faults, and whatever `each` returns.
pub(super) fn for_each<R, E>(
    reader: R,
    limits: Limits,
    mut each: impl FnMut(Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E>
where
    R: Read,
    E: From<ArchiveFault>,
{
    // One byte past the limit tells an archive that ends there from one that goes on.
    let mut bounded = reader.take(limits.bytes.saturating_add(1));
    let result = read_members(&mut bounded, limits.members, &mut each);
    let drained = match result {
        Ok(()) => io::copy(&mut bounded, &mut io::sink()).map_err(|e| ArchiveFault::Read(e).into()),
        Err(fault) => Err(fault),
    };
    if bounded.limit() == 0 {
        Err(ArchiveFault::TooLarge(limits.bytes).into())
    } else {
        drained.map(|_| ())
    }
}

fn read_members<E: From<ArchiveFault>>(
    reader: &mut impl Read,
    max_members: u64,
    each: &mut impl FnMut(Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(reader);
    let mut extensions = Extensions::default();
    let mut count = 0;
    // Raw, so that extension headers come here as members and can be bounded.
    for entry in archive.entries().map_err(ArchiveFault::Read)?.raw(true) {
        let mut entry = entry.map_err(ArchiveFault::Read)?;
        count += 1;
        if count > max_members {
            return Err(ArchiveFault::TooMany(max_members).into());
        }
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        if kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions() {
            let size = entry.size();
            if size > MAX_EXTENSION {
                return Err(ArchiveFault::LongHeader(size).into());
            }
            let mut data = Vec::new();
            entry.read_to_end(&mut data).map_err(ArchiveFault::Read)?;
            if kind.is_pax_local_extensions() {
                extensions.add_pax(&data)?;
            } else {
                while data.last() == Some(&0) {
                    data.pop();
                }
                let slot = if kind.is_gnu_longname() {
                    &mut extensions.path
                } else {
                    &mut extensions.link
                };
                *slot = Some(data);
            }
            continue;
        }
        let member = member(entry.header(), std::mem::take(&mut extensions))?;
        each(member, &mut entry)?;
    }
    Ok(())
}

/// What stands in extension headers before a member.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, i64)>,
    sparse: bool,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    /// Records of `<length> <key>=<value>\n`, the length counting all of it; values may contain newlines.
    fn add_pax(&mut self, mut data: &[u8]) -> Result<(), ArchiveFault> {
        while !data.is_empty() {
            let space = data
                .iter()
                .position(|b| *b == b' ')
                .ok_or(ArchiveFault::Extension)?;
            let length: usize = number(&data[..space])?;
            let record = data.get(space + 1..length).ok_or(ArchiveFault::Extension)?;
            data = &data[length..];
            let record = record.strip_suffix(b"\n").ok_or(ArchiveFault::Extension)?;
            let equals = record
                .iter()
                .position(|b| *b == b'=')
                .ok_or(ArchiveFault::Extension)?;
            self.set_pax(&record[..equals], &record[equals + 1..])?;
        }
        Ok(())
    }

    fn set_pax(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveFault> {
        match key {
            b"path" => self.path = Some(value.to_owned()),
            b"linkpath" => self.link = Some(value.to_owned()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value).ok_or(ArchiveFault::Extension)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_owned(), value.to_owned()));
                } else if key.starts_with(b"GNU.sparse.") {
                    self.sparse = true;
                }
            }
        }
        Ok(())
    }
}

fn member(header: &tar::Header, extensions: Extensions) -> Result<Member, ArchiveFault> {
    let to_path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let path = to_path(extensions.path.as_deref().unwrap_or(&header.path_bytes()));
    let out_of_range = |what| ArchiveFault::Number {
        path: path.clone(),
        what,
    };
    let kind = header.entry_type();
    if extensions.sparse || kind.is_gnu_sparse() {
        return Err(ArchiveFault::Sparse { path });
    }
    let size = header.entry_size().map_err(|_| out_of_range("a size"))?;
    if extensions.size.is_some_and(|given| given != size) {
        return Err(ArchiveFault::AmbiguousSize { path });
    }
    let link = || {
        let in_header = header.link_name_bytes().unwrap_or_default();
        to_path(extensions.link.as_deref().unwrap_or(&in_header))
    };
    let kind = match kind {
        // What POSIX calls "contiguous" is a file for everyone.
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            // Archives from before 1988 mark a directory by its name alone.
            if path.as_os_str().as_bytes().ends_with(b"/") {
                MemberKind::Directory
            } else {
                MemberKind::File
            }
        }
        tar::EntryType::Directory => MemberKind::Directory,
        tar::EntryType::Symlink => MemberKind::Symlink(link()),
        tar::EntryType::Link => MemberKind::HardLink(link()),
        tar::EntryType::Fifo => MemberKind::Fifo,
        tar::EntryType::Char | tar::EntryType::Block => MemberKind::Device,
        other => MemberKind::Unknown(other.as_byte()),
    };
    let old = header.as_old();
    let id = |given: Option<u64>, field: &[u8], in_header: io::Result<u64>, what| {
        given
            .or(or_zero(field, in_header))
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| out_of_range(what))
    };
    let seconds = || or_zero(&old.mtime, header.mtime()).and_then(|s| i64::try_from(s).ok());
    Ok(Member {
        mode: or_zero(&old.mode, header.mode()).ok_or_else(|| out_of_range("a mode"))? & 0o7777,
        uid: id(extensions.uid, &old.uid, header.uid(), "a user id")?,
        gid: id(extensions.gid, &old.gid, header.gid(), "a group id")?,
        mtime: extensions
            .mtime
            .or(seconds().map(|s| (s, 0)))
            .ok_or_else(|| out_of_range("a time"))?,
        xattrs: extensions.xattrs,
        kind,
        path,
    })
}

/// What a header's field says. Writers that don't care leave it empty, which stands for 0.
fn or_zero<N: Default>(field: &[u8], read: io::Result<N>) -> Option<N> {
    let is_empty = field.iter().all(|b| matches!(b, 0 | b' '));
    if is_empty { Some(N::default()) } else { read.ok() }
}

fn number<N: std::str::FromStr>(text: &[u8]) -> Result<N, ArchiveFault> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or(ArchiveFault::Extension)
}

/// `1700000000.123456789`, perhaps negative or without a fraction.
fn time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok().filter(|n| *n >= 0)?;
    if text.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

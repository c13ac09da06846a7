//! What `ps` shows of a process: the memory in which its arguments are. A monitor that was forked would show those of its
//! nursery, and nobody could tell whose it is.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// The longest path (`PATH_MAX`) and what stands before it.
const ROOM: usize = 4_096 + 64;
/// Fields of `/proc/PID/stat` behind the name: where the arguments begin, and end.
const BEGIN: usize = 48 - 3;

/// An argument that makes room for what is shown later.
pub(super) fn room() -> String {
    " ".repeat(ROOM)
}

/// Shows these in the place of the arguments that the process was started with; cut where there is no room.
pub(super) fn show(args: &[&OsStr]) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let (_, fields) = stat.rsplit_once(')').ok_or_else(malformed)?;
    let mut fields = fields.split_ascii_whitespace().skip(BEGIN);
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (begin, end) = number().zip(number()).ok_or_else(malformed)?;
    let length = end
        .checked_sub(begin)
        .and_then(|length| usize::try_from(length).ok());
    let length = length.ok_or_else(malformed)?;
    let mut shown = args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>().join(&0);
    // The last byte stays zero, or the kernel goes on with the environment.
    shown.truncate(length.saturating_sub(1));
    shown.resize(length, 0);
    OpenOptions::new()
        .write(true)
        .open("/proc/self/mem")?
        .write_all_at(&shown, begin)
}

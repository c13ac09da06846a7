//! Reads the kernel's table of mounts. Pure but for [`read`]; changes nothing. Used by `mount` and `cgroup`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The table of this process' mount namespace.
pub(crate) const TABLE: &str = "/proc/self/mountinfo";

/// One mount that this process sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPoint {
    /// What of the filesystem is mounted; `/`: all of it.
    pub(crate) root: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) filesystem: String,
    /// Of the filesystem, not of the mount.
    pub(crate) options: Vec<String>,
}

/// All mounts, each behind the one that it lies in or on.
///
/// # Errors
/// Where `/proc` is not mounted.
pub(crate) fn read() -> io::Result<Vec<MountPoint>> {
    // Bytes: the paths of mounts need not be UTF-8.
    std::fs::read(Path::new(TABLE)).map(|table| parse(&table))
}

/// Lines that are not of the form in proc_pid_mountinfo(5) are left out; the kernel writes none.
pub(crate) fn parse(table: &[u8]) -> Vec<MountPoint> {
    table.split(|b| *b == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|b| *b == b' ');
    let root = path(fields.nth(3)?);
    let target = path(fields.next()?);
    // Optional fields end with a dash.
    fields.find(|field| *field == b"-")?;
    let filesystem = String::from_utf8_lossy(fields.next()?).into_owned();
    let options = String::from_utf8_lossy(fields.nth(1)?);
    Some(MountPoint {
        root,
        path: target,
        filesystem,
        options: options.split(',').map(str::to_owned).collect(),
    })
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, others)) = rest.split_first() {
        let octal = others.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = &others[if code.is_some() { 3 } else { 0 }..];
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, want: Option<(&str, &str, &str, &[&str])>) {
        let found = parse(line.as_bytes());
        let want = want.map(|(root, path, filesystem, options)| MountPoint {
            root: root.into(),
            path: path.into(),
            filesystem: filesystem.to_owned(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        });
        assert_eq!(found.first(), want.as_ref(), "{line}");
    }

    #[test]
    fn lines_are_read_with_and_without_optional_fields() {
        check(
            "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu",
            Some(("/", "/sys/fs/cgroup/cpu", "cgroup", &["rw", "cpu"])),
        );
        check(
            "41 31 0:38 /a /srv rw shared:7 master:1 - tmpfs none rw,size=4k",
            Some(("/a", "/srv", "tmpfs", &["rw", "size=4k"])),
        );
        check("", None);
        check("41 31 0:38 / /srv rw shared:7", None);
    }

    #[test]
    fn escaped_paths_are_what_they_were() {
        check(
            r"41 31 0:38 / /a\040b\134c\011\012 rw - tmpfs x\040y rw",
            Some(("/", "/a b\\c\t\n", "tmpfs", &["rw"])),
        );
        check(
            r"41 31 0:38 / /a\ rw - tmpfs x rw",
            Some(("/", "/a\\", "tmpfs", &["rw"])),
        );
    }

    #[test]
    fn own_table_has_proc() {
        let mounts = read().expect("read");
        assert!(
            mounts
                .iter()
                .any(|m| m.path == Path::new("/proc") && m.filesystem == "proc")
        );
    }
}

//! What is mounted below a cluster's folder, and its removal.

use super::DevError;
use nix::mount::{MntFlags, umount2};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Within its filesystem; of a pinned namespace: `net:[4026532281]`.
    pub(super) root: String,
    pub(super) point: PathBuf,
    pub(super) kind: String,
    /// Of the filesystem, comma separated.
    pub(super) options: String,
}

/// In the order they were mounted.
pub(super) fn all() -> Result<Vec<Mount>, DevError> {
    let text = std::fs::read_to_string(MOUNTINFO).map_err(DevError::io("read", MOUNTINFO))?;
    Ok(text.lines().filter_map(parse).collect())
}

fn below(dir: &Path) -> Result<Vec<Mount>, DevError> {
    Ok(all()?
        .into_iter()
        .filter(|m| m.point.starts_with(dir) && m.point != dir)
        .collect())
}

/// The network namespaces that are pinned below `dir`, as `/proc/PID/ns/net` names them.
pub(super) fn pinned_namespaces(dir: &Path) -> Result<BTreeSet<String>, DevError> {
    let pinned = below(dir)?
        .into_iter()
        .filter(|m| m.kind == "nsfs" && m.root.starts_with("net:"));
    Ok(pinned.map(|m| m.root).collect())
}

/// Unmounts all below `dir`, the newest first; every failure.
pub(super) fn unmount_below(dir: &Path) -> Vec<DevError> {
    let mounts = match below(dir) {
        Ok(mounts) => mounts,
        Err(error) => return vec![error],
    };
    let mut failures = Vec::new();
    for mount in mounts.iter().rev() {
        match umount2(&mount.point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Gone meanwhile, with a mount it was propagated from.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => failures.push(DevError::io("unmount", &mount.point)(errno.into())),
        }
    }
    match below(dir) {
        Ok(left) if left.is_empty() => {}
        Ok(left) => failures.extend(
            left.into_iter()
                .map(|m| DevError::io("unmount", m.point)(std::io::ErrorKind::ResourceBusy.into())),
        ),
        Err(error) => failures.push(error),
    }
    failures
}

/// `id parent major:minor root point options [tags] - kind source options`
fn parse(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(3);
    let root = head.next()?.to_owned();
    let point = unescape(head.next()?);
    let mut tail = tail.split(' ');
    let kind = tail.next()?.to_owned();
    let options = tail.nth(1).unwrap_or_default().to_owned();
    Some(Mount {
        root,
        point,
        kind,
        options,
    })
}

/// The kernel writes space, tab, line end and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let code = behind
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &behind[3..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_with_tags_and_escapes_is_read() {
        let line = "36 35 98:0 net:[42] /mnt/a\\040b rw,noatime shared:1 master:2 - nsfs nsfs rw";
        let mount = parse(line).unwrap();
        assert_eq!(mount.root, "net:[42]");
        assert_eq!(mount.point, Path::new("/mnt/a b"));
        assert_eq!((mount.kind.as_str(), mount.options.as_str()), ("nsfs", "rw"));
    }
}

//! Who a container runs as: an image's `user` field, looked up in the root filesystem's own `/etc/passwd` and
//! `/etc/group`, as Docker does. Those files are the image maker's: they are read below the root filesystem,
//! wherever links in it point, and only so far.
//!
//! Called when the root filesystem is mounted, before the bundle is rendered.

use super::rooted::Root;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Of `/etc/passwd` or `/etc/group`; real ones have some kilobytes.
const MAX_FILE: u64 = 4 << 20;
/// Linux' own limit on a process' groups.
const MAX_GROUPS: usize = 65_536;

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Beside `gid`.
    pub groups: Vec<u32>,
    /// `/` where nothing says otherwise.
    pub home: String,
}

/// Why a user can't be told.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("cannot read {file} of the image: {source}")]
    Read { file: PathBuf, source: io::Error },
    #[error(
        "the image is to run as user `{0}`, whom its /etc/passwd does not have; name a user id or another user"
    )]
    UnknownUser(String),
    #[error(
        "the image is to run with group `{0}`, which its /etc/group does not have; name a group id or another group"
    )]
    UnknownGroup(String),
    #[error("`{0}` is no user id: 0 to 2147483647")]
    Range(String),
}

/// Looks up `user`: empty, `user`, `user:group`, each a name or a number. A number needs no entry.
///
/// # Errors
/// [`UserError`].
pub fn resolve(rootfs: &Path, user: &str) -> Result<User, UserError> {
    let root = Root::open(rootfs).map_err(|e| UserError::Read {
        file: rootfs.to_owned(),
        source: e.into(),
    })?;
    let passwd = read(&root, "etc/passwd")?;
    let group = read(&root, "etc/group")?;
    look_up(user, &passwd, &group)
}

/// The text of a file below the root; empty where there is none.
fn read(root: &Root, path: &str) -> Result<String, UserError> {
    let fail = |source: io::Error| UserError::Read {
        file: Path::new("/").join(path),
        source,
    };
    // Not blocking: it might be a fifo.
    let fd = match root.open_at(
        Path::new(path),
        OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
    ) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        opened => opened.map_err(|e| fail(e.into()))?,
    };
    let file = File::from(fd);
    let about = file.metadata().map_err(fail)?;
    if !about.is_file() || about.len() > MAX_FILE {
        return Err(fail(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no file, or far too long",
        )));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(fail)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn look_up(user: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (name, wanted_group) = user.split_once(':').unwrap_or((user, ""));
    let name = if name.is_empty() { "0" } else { name };
    let number = id(name)?;
    let entry =
        records(passwd).find(|f| f.first() == Some(&name) || (number.is_some() && uid_of(f) == number));
    let (uid, own_gid) = match (&entry, number) {
        (Some(fields), _) => match (uid_of(fields), field_id(fields, 3)) {
            (Some(uid), gid) => (uid, gid.unwrap_or(0)),
            (None, _) => return Err(UserError::UnknownUser(name.to_owned())),
        },
        (None, Some(number)) => (number, 0),
        (None, None) => return Err(UserError::UnknownUser(name.to_owned())),
    };
    let home = entry
        .as_ref()
        .and_then(|f| f.get(5))
        .filter(|home| home.starts_with('/'));
    let home = home.map_or_else(|| "/".to_owned(), |home| (*home).to_owned());
    if !wanted_group.is_empty() {
        let gid = group_id(wanted_group, group)?;
        return Ok(User {
            uid,
            gid,
            groups: Vec::new(),
            home,
        });
    }
    let known_as = entry.as_ref().and_then(|f| f.first()).copied();
    let member = |fields: &Vec<&str>| {
        fields
            .get(3)
            .is_some_and(|m| m.split(',').any(|m| Some(m) == known_as))
    };
    let mut groups: Vec<u32> = records(group)
        .filter(member)
        .filter_map(|f| field_id(&f, 2))
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups.retain(|gid| *gid != own_gid);
    groups.truncate(MAX_GROUPS);
    Ok(User {
        uid,
        gid: own_gid,
        groups,
        home,
    })
}

fn group_id(name: &str, group: &str) -> Result<u32, UserError> {
    if let Some(number) = id(name)? {
        return Ok(number);
    }
    let found = records(group)
        .find(|f| f.first() == Some(&name))
        .and_then(|f| field_id(&f, 2));
    found.ok_or_else(|| UserError::UnknownGroup(name.to_owned()))
}

/// Lines of `a:b:c`, without comments.
fn records(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split(':').map(str::trim).collect())
}

fn uid_of(fields: &[&str]) -> Option<u32> {
    field_id(fields, 2)
}

fn field_id(fields: &[&str], index: usize) -> Option<u32> {
    id(fields.get(index)?).ok().flatten()
}

/// A number, if the text is one.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<i32>() {
        Ok(id) => Ok(Some(id.unsigned_abs())),
        Err(_) => Err(UserError::Range(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# no one\nweb:x:33:44::/srv/web:\nodd:x:70\n\n99:x:5:6::/n:\n";
    const GROUP: &str = "root:x:0:root,web\nweb:x:44:web\ndocker:x:999:web,other\nempty:x:12:\n";

    #[track_caller]
    fn check(user: &str, want: Result<(u32, u32, &[u32], &str), &str>) {
        match (look_up(user, PASSWD, GROUP), want) {
            (Ok(got), Ok((uid, gid, groups, home))) => {
                assert_eq!(
                    got,
                    User {
                        uid,
                        gid,
                        groups: groups.to_vec(),
                        home: home.to_owned()
                    },
                    "{user}"
                );
            }
            (Err(got), Err(want)) => assert!(got.to_string().contains(want), "{got} lacks {want}"),
            (got, want) => panic!("{user}: {got:?}, expected {want:?}"),
        }
    }

    #[test]
    fn names_numbers_and_groups_resolve_as_docker_does() {
        check("", Ok((0, 0, &[], "/root")));
        check("root", Ok((0, 0, &[], "/root")));
        check("web", Ok((33, 44, &[0, 999], "/srv/web")));
        check("33", Ok((33, 44, &[0, 999], "/srv/web")));
        check("web:docker", Ok((33, 999, &[], "/srv/web")));
        check("web:7", Ok((33, 7, &[], "/srv/web")));
        check("1000", Ok((1000, 0, &[], "/")));
        check("1000:1001", Ok((1000, 1001, &[], "/")));
        check(":docker", Ok((0, 999, &[], "/root")));
        check("odd", Ok((70, 0, &[], "/")));
        // A user's name may be a number.
        check("99", Ok((5, 6, &[], "/n")));
    }

    #[test]
    fn unknown_names_and_numbers_out_of_range_are_errors() {
        check("nobody", Err("user `nobody`"));
        check("root:nothing", Err("group `nothing`"));
        check("-1", Err("user `-1`"));
        check("4294967295", Err("no user id"));
        check("0:99999999999999", Err("no user id"));
    }

    #[test]
    fn links_out_of_the_root_filesystem_stay_within_it() {
        let outside = tempfile::tempdir().expect("a folder");
        let rootfs = outside.path().join("rootfs");
        std::fs::create_dir_all(rootfs.join("etc")).expect("made");
        std::fs::write(outside.path().join("passwd"), "web:x:1:1::/:\n").expect("written");
        std::os::unix::fs::symlink(outside.path().join("passwd"), rootfs.join("etc/passwd")).expect("linked");
        assert!(matches!(resolve(&rootfs, "web"), Err(UserError::UnknownUser(_))));
        std::fs::remove_file(rootfs.join("etc/passwd")).expect("removed");
        std::os::unix::fs::symlink("../../../passwd", rootfs.join("etc/passwd")).expect("linked");
        std::fs::write(rootfs.join("passwd"), "web:x:2:2::/:\n").expect("written");
        assert_eq!(resolve(&rootfs, "web").expect("resolved").uid, 2);
    }

    #[test]
    fn image_without_files_has_numbers_only() {
        let rootfs = tempfile::tempdir().expect("a folder");
        assert_eq!(resolve(rootfs.path(), "").expect("root").uid, 0);
        assert!(resolve(rootfs.path(), "root").is_err());
    }

    #[test]
    fn fifo_in_place_of_a_file_is_refused_at_once() {
        let rootfs = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(rootfs.path().join("etc")).expect("made");
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o644);
        nix::unistd::mkfifo(&rootfs.path().join("etc/passwd"), mode).expect("a fifo");
        assert!(matches!(
            resolve(rootfs.path(), "root"),
            Err(UserError::Read { .. })
        ));
    }
}

//! The files of one container: `0.log` is written, `0.log.1` came before it, `0.log.2` before that.

use super::FILES;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const CURRENT: &str = "0.log";
const NEXT: &str = "next.log";
/// How often all files are opened anew when they are rotated meanwhile. One rotation takes 10 MiB of
/// output, opening three files some microseconds.
const ATTEMPTS: usize = 16;

/// The path of the file that is `age` rotations old.
pub(super) fn path(dir: &Path, age: usize) -> PathBuf {
    match age {
        0 => dir.join(CURRENT),
        _ => dir.join(format!("{CURRENT}.{age}")),
    }
}

/// Where the next file is made, before it takes the name of the current one.
pub(super) fn path_of_next(dir: &Path) -> PathBuf {
    dir.join(NEXT)
}

/// Lets the next file take the place of the current one; the oldest one goes.
///
/// # Errors
/// As of rename(2). What was renamed until then stays so; a next call goes on from there.
pub(super) fn rotate(dir: &Path) -> io::Result<()> {
    for age in (0..FILES - 1).rev() {
        match std::fs::rename(path(dir, age), path(dir, age + 1)) {
            Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(fault),
            _ => {}
        }
    }
    std::fs::rename(path_of_next(dir), path(dir, 0))
}

/// Which file it is, whatever its name; valid as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|m| Self::from(&m))
    }

    fn at(path: &Path) -> io::Result<Option<Self>> {
        match path.symlink_metadata() {
            Ok(found) => Ok(Some(Self::from(&found))),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

impl From<&std::fs::Metadata> for Identity {
    fn from(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Which file is the current one; `None`: there is none at this moment.
///
/// # Errors
/// As of stat(2).
pub(super) fn current(dir: &Path) -> io::Result<Option<Identity>> {
    Identity::at(&path(dir, 0))
}

/// All files that are there, oldest first, as they were at one moment.
///
/// # Errors
/// As of open(2) and stat(2).
pub(super) fn open_all(dir: &Path) -> io::Result<Vec<(Identity, File)>> {
    let mut opened = open_once(dir)?;
    for _ in 1..ATTEMPTS {
        if is_present(dir, &opened)? {
            break;
        }
        opened = open_once(dir)?;
    }
    Ok(opened.into_iter().rev().flatten().collect())
}

/// By age.
type Opened = Vec<Option<(Identity, File)>>;

fn open_once(dir: &Path) -> io::Result<Opened> {
    let open = |age| match File::open(path(dir, age)) {
        Ok(file) => Ok(Some((Identity::of(&file)?, file))),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(fault),
    };
    (0..FILES).map(open).collect()
}

fn is_present(dir: &Path, opened: &Opened) -> io::Result<bool> {
    for (age, file) in opened.iter().enumerate() {
        if Identity::at(&path(dir, age))? != file.as_ref().map(|(identity, _)| *identity) {
            return Ok(false);
        }
    }
    Ok(true)
}

//! A stream to files. Whatever it says, and whatever is done to the files meanwhile, nothing outside the target is
//! touched, and no link is followed below it.

use crate::TreeError;
use crate::folder::{Folder, is};
use crate::target::Target;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType};

/// Read and written at once.
const CHUNK: usize = 64 << 10;
/// Names of new directories, which are kept until nothing is written in them any more: half a million of usual ones.
const MAX_FOLDER_NAMES: usize = 32 << 20;
/// Directories that the stream does not describe.
const FOLDER_MODE: u32 = 0o755;

/// What is taken over from a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whose all files are; `None`: whose it is that writes them.
    pub owner: Option<(u32, u32)>,
    /// Bits of a file's mode that are kept.
    pub mode: u32,
    /// Links that lead, or may lead, out of the target are made as well, and hard links at all.
    pub links: bool,
}

/// What has come of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, directories and links.
    pub entries: u64,
    /// Devices, pipes, and links that the policy does not allow.
    pub left_out: u64,
}

/// Makes of `archive` what it describes. Files and links that are there are replaced, directories are kept.
///
/// # Errors
/// [`TreeError`]; what was written by then stays, but for a file that was not written to its end.
pub fn unpack(archive: impl Read, target: Target, policy: Policy) -> Result<Unpacked, TreeError> {
    let mut unpacker = Unpacker {
        target,
        policy,
        folders: Vec::new(),
        folder_names: 0,
        done: Unpacked::default(),
    };
    let mut archive = Archive::new(archive);
    for entry in archive.entries().map_err(TreeError::Receive)? {
        unpacker.add(entry.map_err(TreeError::Receive)?)?;
    }
    // What pads the end is taken as well, or who writes it would find nobody to read it.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(TreeError::Receive)?;
    unpacker.finish()
}

struct Unpacker {
    target: Target,
    policy: Policy,
    /// New ones, in the order in which they were made.
    folders: Vec<(PathBuf, Attributes)>,
    /// Bytes of the names in `folders`.
    folder_names: usize,
    done: Unpacked,
}

#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: u32,
    /// Seconds since the Unix epoch.
    modified: Option<u64>,
}

fn fault(act: &'static str, path: &Path, source: impl Into<Errno>) -> TreeError {
    TreeError::File {
        act,
        path: path.to_owned(),
        source: source.into(),
    }
}

impl Unpacker {
    fn add(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), TreeError> {
        let path = entry.path().map_err(TreeError::Receive)?.into_owned();
        let kind = entry.header().entry_type();
        if path
            .components()
            .all(|c| matches!(c, Component::CurDir | Component::RootDir))
        {
            return match kind {
                EntryType::Directory => self.target.enter().map(|()| self.done.entries += 1),
                _ => Err(TreeError::Outside { path }),
            };
        }
        let place = self.target.place(&path)?;
        let attributes = Attributes {
            mode: entry.header().mode().map_err(TreeError::Receive)? & self.policy.mode,
            modified: entry.header().mtime().ok(),
        };
        let made = match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let length = entry.size();
                self.file(&place, attributes, &mut entry, length).map(|()| true)
            }
            EntryType::Directory => self.folder(&place, attributes).map(|()| true),
            EntryType::Symlink => {
                let link = entry.link_name().map_err(TreeError::Receive)?.unwrap_or_default();
                self.symlink(&place, &link, attributes)
            }
            EntryType::Link => {
                let link = entry.link_name().map_err(TreeError::Receive)?.unwrap_or_default();
                self.hard_link(&place, &link)
            }
            EntryType::Block | EntryType::Char | EntryType::Fifo => Ok(false),
            EntryType::XGlobalHeader => return Ok(()),
            other => {
                return Err(TreeError::Kind {
                    path,
                    kind: char::from(other.as_byte()),
                });
            }
        };
        match made? {
            true => self.done.entries += 1,
            false => self.done.left_out += 1,
        }
        Ok(())
    }

    fn file(
        &mut self,
        place: &Path,
        attributes: Attributes,
        content: &mut impl Read,
        length: u64,
    ) -> Result<(), TreeError> {
        let (folder, name) = self.cleared(place)?;
        let mut file = folder
            .create(name)
            .map_err(|source| fault("write", place, source))?;
        if let Err(failure) = copy(content, &mut file, place, length) {
            // Half of a file is worse than none. That it stays is no other failure.
            unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir).ok();
            return Err(failure);
        }
        self.own(&file, place)?;
        set(&file, attributes).map_err(|source| fault("set the mode and time of", place, source))
    }

    fn folder(&mut self, place: &Path, attributes: Attributes) -> Result<(), TreeError> {
        let (folder, name) = self.parent(place)?;
        if self.is_folder(&folder, name, place)? {
            return Ok(());
        }
        if folder
            .stat(name)
            .map_err(|source| fault("read", place, source))?
            .is_some()
        {
            return Err(TreeError::NoFolder {
                path: place.to_owned(),
            });
        }
        self.make(&folder, name, place, attributes)
    }

    fn make(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        place: &Path,
        attributes: Attributes,
    ) -> Result<(), TreeError> {
        folder.make(name).map_err(|source| fault("make", place, source))?;
        let made = folder
            .below(Path::new(name))
            .map_err(|source| fault("open", place, source))?;
        self.own(&made, place)?;
        self.folder_names += place.as_os_str().len();
        if self.folder_names > MAX_FOLDER_NAMES {
            return Err(TreeError::Folders);
        }
        // Later: a directory that may not be written to could get no files.
        self.folders.push((place.to_owned(), attributes));
        Ok(())
    }

    fn symlink(&mut self, place: &Path, link: &Path, attributes: Attributes) -> Result<bool, TreeError> {
        if !self.policy.links && !stays(place, link) {
            return Ok(false);
        }
        let (folder, name) = self.cleared(place)?;
        symlinkat(link, &folder, name).map_err(|source| fault("link", place, source))?;
        if let Some((user, group)) = self.policy.owner {
            let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            fchownat(&folder, name, user, group, AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|source| fault("give away", place, source))?;
        }
        if let Some(time) = attributes.modified.and_then(time) {
            utimensat(&folder, name, &time, &time, UtimensatFlags::NoFollowSymlink)
                .map_err(|source| fault("set the time of", place, source))?;
        }
        Ok(true)
    }

    fn hard_link(&mut self, place: &Path, link: &Path) -> Result<bool, TreeError> {
        if !self.policy.links {
            return Ok(false);
        }
        let to = self.target.place(link)?;
        let (there, target) = self.parent(&to)?;
        let (folder, name) = self.cleared(place)?;
        linkat(&there, target, &folder, name, AtFlags::empty())
            .map_err(|source| fault("link", place, source))?;
        Ok(true)
    }

    /// The directory that `place` is in, made where it is missing, and its name there.
    fn parent<'a>(&mut self, place: &'a Path) -> Result<(Folder, &'a OsStr), TreeError> {
        let name = place.file_name().ok_or(TreeError::Outside {
            path: place.to_owned(),
        })?;
        let path = place.parent().unwrap_or(Path::new(""));
        match self.target.base.below(path) {
            Ok(folder) => return Ok((folder, name)),
            Err(Errno::ENOENT) => {}
            Err(Errno::ELOOP) => {
                return Err(TreeError::NoFolder {
                    path: path.to_owned(),
                });
            }
            Err(source) => return Err(fault("open", path, source)),
        }
        let (above, missing) = self.parent(path)?;
        if !self.is_folder(&above, missing, path)? {
            let attributes = Attributes {
                mode: FOLDER_MODE & self.policy.mode,
                modified: None,
            };
            self.make(&above, missing, path, attributes)?;
        }
        let folder = above.below(Path::new(missing));
        Ok((folder.map_err(|source| fault("open", path, source))?, name))
    }

    /// As [`Self::parent`]; what is under the name has gone, unless it is a directory.
    fn cleared<'a>(&mut self, place: &'a Path) -> Result<(Folder, &'a OsStr), TreeError> {
        let (folder, name) = self.parent(place)?;
        match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok((folder, name)),
            Err(source) => Err(fault("replace", place, source)),
        }
    }

    fn is_folder(&self, folder: &Folder, name: &OsStr, place: &Path) -> Result<bool, TreeError> {
        let stat = folder.stat(name).map_err(|source| fault("read", place, source))?;
        Ok(stat.is_some_and(|stat| is(&stat, SFlag::S_IFDIR)))
    }

    fn own(&self, file: impl std::os::fd::AsFd, place: &Path) -> Result<(), TreeError> {
        let Some((user, group)) = self.policy.owner else {
            return Ok(());
        };
        fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
            .map_err(|source| fault("give away", place, source))
    }

    /// The innermost directories first: each change in one changes its time.
    fn finish(mut self) -> Result<Unpacked, TreeError> {
        if self.done == Unpacked::default() {
            return Err(TreeError::Empty);
        }
        for (place, attributes) in std::mem::take(&mut self.folders).into_iter().rev() {
            match self.target.base.below(&place) {
                Ok(folder) => {
                    set(&folder, attributes)
                        .map_err(|source| fault("set the mode and time of", &place, source))?;
                }
                // Somebody has taken it away meanwhile, which is his right.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(source) => return Err(fault("open", &place, source)),
            }
        }
        Ok(self.done)
    }
}

/// Whether a link at `place` leads to somewhere below the target for certain: it goes up only at its beginning, where it
/// goes through directories that were made here.
fn stays(place: &Path, link: &Path) -> bool {
    let mut room = place.components().count().saturating_sub(1);
    let mut is_down = false;
    for component in link.components() {
        match component {
            Component::Normal(_) => is_down = true,
            Component::CurDir => {}
            Component::ParentDir if !is_down && room > 0 => room -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !link.as_os_str().is_empty()
}

fn set(file: impl std::os::fd::AsFd, attributes: Attributes) -> Result<(), Errno> {
    fchmod(&file, Mode::from_bits_truncate(attributes.mode))?;
    match attributes.modified.and_then(time) {
        Some(time) => futimens(&file, &time, &time),
        None => Ok(()),
    }
}

fn time(seconds: u64) -> Option<TimeSpec> {
    i64::try_from(seconds)
        .ok()
        .map(|seconds| TimeSpec::new(seconds, 0))
}

fn copy(from: &mut impl Read, to: &mut impl Write, place: &Path, length: u64) -> Result<(), TreeError> {
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) if left > 0 => return Err(TreeError::Receive(io::ErrorKind::UnexpectedEof.into())),
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(TreeError::Receive(error)),
        };
        left = left.saturating_sub(length as u64);
        to.write_all(&buffer[..length]).map_err(|error| {
            let source = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            fault("write", place, source)
        })?;
    }
}

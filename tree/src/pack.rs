//! Files to a stream. They may be changed while they are read: what has gone is left out, and a file that has become
//! shorter or longer is filled up or cut, so that the stream stays whole.

use crate::folder::{Folder, is};
use crate::{MAX_DEPTH, TreeError};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};
use nix::sys::statfs::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// What the kernel makes up when it is read: no files to copy.
const NO_FILES: [FsType; 4] = [
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
];

/// What a stream holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Files, directories and links.
    pub entries: u64,
    /// Devices, pipes, sockets, and directories of the kernel, which are not copied.
    pub left_out: u64,
}

/// Writes what is `name` in `folder` as a tar stream in which it is called `shown`; with `.` as `name`, the directory
/// itself.
///
/// # Errors
/// [`TreeError`]; the stream is of no use then.
pub fn pack(folder: &Folder, name: &OsStr, shown: &Path, out: impl Write) -> Result<Packed, TreeError> {
    let mut builder = Builder::new(out);
    builder.mode(tar::HeaderMode::Complete);
    let mut packer = Packer {
        builder,
        packed: Packed::default(),
    };
    let stat = folder.stat(name).and_then(|stat| stat.ok_or(Errno::ENOENT));
    let stat = stat.map_err(|source| fault("read", shown, source))?;
    packer.add(folder, name, shown, &stat, 0)?;
    packer.builder.finish().map_err(TreeError::Send)?;
    Ok(packer.packed)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    packed: Packed,
}

fn fault(act: &'static str, path: &Path, source: Errno) -> TreeError {
    TreeError::File {
        act,
        path: path.to_owned(),
        source,
    }
}

impl<W: Write> Packer<W> {
    fn add(
        &mut self,
        folder: &Folder,
        name: &OsStr,
        shown: &Path,
        stat: &FileStat,
        depth: usize,
    ) -> Result<(), TreeError> {
        if depth > MAX_DEPTH {
            return Err(TreeError::Deep {
                path: shown.to_owned(),
            });
        }
        let added = if is(stat, SFlag::S_IFREG) {
            match there(folder.read(name), shown)? {
                Some((file, stat)) => self.file(file, &stat, shown).map(|()| true),
                None => Ok(false),
            }
        } else if is(stat, SFlag::S_IFDIR) {
            match there(folder.below(Path::new(name)).map(Some), shown)? {
                Some(inner) => self.folder(&inner, stat, shown, depth),
                None => Ok(false),
            }
        } else if is(stat, SFlag::S_IFLNK) {
            match there(folder.link(name).map(Some), shown)? {
                Some(target) => self.link(Path::new(&target), stat, shown).map(|()| true),
                None => Ok(false),
            }
        } else {
            Ok(false)
        };
        match added? {
            true => self.packed.entries += 1,
            false => self.packed.left_out += 1,
        }
        Ok(())
    }

    fn file(&mut self, file: File, stat: &FileStat, shown: &Path) -> Result<(), TreeError> {
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let mut header = header(stat, EntryType::Regular);
        header.set_size(length);
        let mut content = Content {
            file,
            left: length,
            fault: None,
        };
        let sent = self.builder.append_data(&mut header, shown, &mut content);
        if let Some(source) = content.fault {
            return Err(fault("read", shown, source));
        }
        sent.map_err(TreeError::Send)
    }

    /// False: it is none whose files are copied.
    fn folder(
        &mut self,
        folder: &Folder,
        stat: &FileStat,
        shown: &Path,
        depth: usize,
    ) -> Result<bool, TreeError> {
        let kind = fstatfs(folder).map_err(|source| fault("read", shown, source))?;
        if NO_FILES.contains(&kind.filesystem_type()) {
            return Ok(false);
        }
        let mut header = header(stat, EntryType::Directory);
        // A trailing slash, as every tar has it.
        self.builder
            .append_data(&mut header, shown.join(""), io::empty())
            .map_err(TreeError::Send)?;
        for name in folder.names().map_err(|source| fault("list", shown, source))? {
            let path = shown.join(&name);
            if let Some(stat) = there(folder.stat(&name), &path)? {
                self.add(folder, &name, &path, &stat, depth + 1)?;
            }
        }
        Ok(true)
    }

    fn link(&mut self, target: &Path, stat: &FileStat, shown: &Path) -> Result<(), TreeError> {
        let mut header = header(stat, EntryType::Symlink);
        self.builder
            .append_link(&mut header, shown, target)
            .map_err(TreeError::Send)
    }
}

/// Its name, and for a file its size, come later.
fn header(stat: &FileStat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}

/// What has gone, or has become something else, since its name was read is not there.
fn there<T>(found: Result<Option<T>, Errno>, shown: &Path) -> Result<Option<T>, TreeError> {
    match found {
        Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => Ok(None),
        found => found.map_err(|source| fault("read", &PathBuf::from(shown), source)),
    }
}

/// Exactly as many bytes as were announced.
struct Content {
    file: File,
    left: u64,
    /// Why it can't be read, which the stream's own faults must not be taken for.
    fault: Option<Errno>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = match self.file.read(&mut buffer[..room]) {
            Ok(0) => {
                buffer[..room].fill(0);
                room
            }
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.fault = Some(Errno::from_raw(error.raw_os_error().unwrap_or(0)));
                return Err(error);
            }
        };
        self.left -= length as u64;
        Ok(length)
    }
}

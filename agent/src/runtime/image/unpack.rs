//! Turns a layer's archive into a directory that overlayfs can stack: whiteouts become what overlayfs takes
//! for them, owners, modes, times and links are kept.
//!
//! The archive is a stranger's: nothing is written outside the directory, no device is made, and what can't
//! be understood is refused. Called by [`super::store`] with a fresh directory.

use super::members::{ArchiveFault, Limits, Member, MemberKind, for_each};
use super::recipe::{RecipeWriter, Recording};
use crate::runtime::rooted::{Place, Root, clean, is};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, mkfifoat, symlinkat};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use xattr::FileExt;

/// Of one layer; the largest that are in use (machine learning) have some 10 GB and 300,000 members.
pub(super) const LAYER: Limits = Limits {
    bytes: 16 << 30,
    members: 2_000_000,
};
/// The names of a layer's directories, which are kept in memory until their times are set. The largest that
/// are in use have some 30,000 directories with names of 100 bytes.
const MAX_FOLDER_NAMES: usize = 64 << 20;

/// In an archive, `.wh.x` says that `x` of the layers below is gone.
const WHITEOUT: &[u8] = b".wh.";
/// In an archive, that all which the layers below have in this directory is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that begin so are bookkeeping of long-gone aufs.
const BOOKKEEPING: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Why a layer can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackFault {
    #[error(transparent)]
    Archive(#[from] ArchiveFault),
    #[error("`{path}` leads out of the layer, which is refused")]
    Outside { path: PathBuf },
    #[error("`{path}` is of the unknown type {kind:#x}")]
    Kind { path: PathBuf, kind: u8 },
    #[error("has more than {MAX_FOLDER_NAMES} bytes of names of directories, which is refused")]
    FolderNames,
    #[error("cannot {act} `{path}`: {source}")]
    Write {
        act: &'static str,
        path: PathBuf,
        source: Errno,
    },
    #[error("cannot write `{path}`: {source}")]
    Content { path: PathBuf, source: io::Error },
}

impl UnpackFault {
    /// The disk of this node is at fault, and not the layer.
    pub(super) fn is_of_disk(&self) -> bool {
        let fault = match self {
            Self::Write { source, .. } => *source,
            Self::Content { source, .. } => Errno::from_raw(source.raw_os_error().unwrap_or_default()),
            Self::Archive(_) | Self::Outside { .. } | Self::Kind { .. } | Self::FolderNames => return false,
        };
        matches!(fault, Errno::ENOSPC | Errno::EDQUOT | Errno::EIO | Errno::EROFS)
    }
}

/// Unpacks `archive`, not compressed, in the empty directory `target`, and gives `recipe` what is needed to make it again.
///
/// # Errors
/// [`UnpackFault`]; what was written by then stays, for the caller to remove.
pub(super) fn unpack<W: Write>(
    archive: impl Read,
    target: &Path,
    limits: Limits,
    recipe: RecipeWriter<W>,
) -> Result<RecipeWriter<W>, UnpackFault> {
    let root = Root::open(target).map_err(|source| fault("open", target, source))?;
    let mut layer = Layer {
        root,
        folders: Vec::new(),
        folder_names: 0,
    };
    let recipe = RefCell::new(recipe);
    let recording = Recording {
        archive,
        recipe: &recipe,
    };
    for_each(recording, limits, |member, content| {
        if member.kind == MemberKind::File
            && let Some(path) = clean(&member.path)
        {
            recipe.borrow_mut().enter(&path);
        }
        layer.add(&member, content)?;
        let left = recipe.borrow_mut().leave();
        left.map_err(|source| UnpackFault::Content {
            path: member.path,
            source,
        })
    })?;
    layer.finish()?;
    Ok(recipe.into_inner())
}

struct Layer {
    root: Root,
    /// Directories with the times that they shall have once nothing is written in them any more.
    folders: Vec<(PathBuf, (i64, i64))>,
    /// Bytes of the names in `folders`.
    folder_names: usize,
}

fn fault(act: &'static str, path: &Path, source: Errno) -> UnpackFault {
    UnpackFault::Write {
        act,
        path: path.to_owned(),
        source,
    }
}

impl Layer {
    fn add(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), UnpackFault> {
        let Some(path) = clean(&member.path) else {
            return Err(UnpackFault::Outside {
                path: member.path.clone(),
            });
        };
        let Some(name) = path.file_name() else {
            return self.describe_root(member);
        };
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(&path, name.as_bytes(), hidden);
        }
        let place = self
            .root
            .place(&path)
            .map_err(|e| fault("find the folder of", &path, e))?;
        let there = place.stat().map_err(|e| fault("look at", &path, e))?;
        let is_folder = member.kind == MemberKind::Directory;
        let keeps = is_folder && there.is_some_and(|s| is(&s, SFlag::S_IFDIR));
        // A folder over a whiteout of this same layer hides what is below it.
        let opaque = is_folder && there.is_some_and(|s| is(&s, SFlag::S_IFCHR));
        if !keeps {
            place.remove().map_err(|e| fault("replace", &path, e))?;
        }
        match &member.kind {
            MemberKind::Directory => self.folder(member, &path, &place, keeps, opaque),
            MemberKind::File => file(member, &path, &place, content),
            MemberKind::Symlink(target) => {
                symlinkat(target, &place.parent, place.name.as_os_str())
                    .map_err(|e| fault("make the link", &path, e))?;
                describe_name(member, &path, &place)
            }
            MemberKind::HardLink(target) => self.hard_link(target, &path, &place),
            MemberKind::Fifo => {
                mkfifoat(
                    &place.parent,
                    place.name.as_os_str(),
                    Mode::from_bits_truncate(0o600),
                )
                .map_err(|e| fault("make the fifo", &path, e))?;
                describe_name(member, &path, &place)?;
                let mode = Mode::from_bits_truncate(member.mode);
                fchmodat(
                    &place.parent,
                    place.name.as_os_str(),
                    mode,
                    FchmodatFlags::FollowSymlink,
                )
                .map_err(|e| fault("set the mode of", &path, e))
            }
            // A container gets its devices from the runtime. Old images have a /dev of their own, so that
            // refusing would refuse them.
            MemberKind::Device => {
                tracing::debug!(path = %path.display(), "device in a layer is left out");
                Ok(())
            }
            MemberKind::Unknown(kind) => Err(UnpackFault::Kind { path, kind: *kind }),
        }
    }

    fn folder(
        &mut self,
        member: &Member,
        path: &Path,
        place: &Place,
        keeps: bool,
        opaque: bool,
    ) -> Result<(), UnpackFault> {
        if !keeps {
            mkdirat(
                &place.parent,
                place.name.as_os_str(),
                Mode::from_bits_truncate(0o700),
            )
            .map_err(|e| fault("make the folder", path, e))?;
        }
        let fd = place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
        let fd = fd.map_err(|e| fault("open", path, e))?;
        let fd = describe(member, path, fd)?;
        if opaque {
            set_opaque(&fd, path)?;
        }
        self.remember_time(path, member)
    }

    fn remember_time(&mut self, path: &Path, member: &Member) -> Result<(), UnpackFault> {
        self.folder_names += path.as_os_str().len() + size_of::<(PathBuf, (i64, i64))>();
        if self.folder_names > MAX_FOLDER_NAMES {
            return Err(UnpackFault::FolderNames);
        }
        self.folders.push((path.to_owned(), member.mtime));
        Ok(())
    }

    fn describe_root(&mut self, member: &Member) -> Result<(), UnpackFault> {
        if member.kind != MemberKind::Directory {
            return Err(UnpackFault::Outside {
                path: member.path.clone(),
            });
        }
        let fd = self.root.fd().try_clone();
        let fd = fd.map_err(|source| UnpackFault::Content {
            path: member.path.clone(),
            source,
        })?;
        describe(member, &member.path, fd)?;
        self.remember_time(Path::new(""), member)
    }

    fn hard_link(&self, target: &Path, path: &Path, place: &Place) -> Result<(), UnpackFault> {
        let Some(target) = clean(target).filter(|t| t.file_name().is_some()) else {
            return Err(UnpackFault::Outside {
                path: path.to_owned(),
            });
        };
        let act = "link to its target";
        let target = self.root.place(&target).map_err(|e| fault(act, path, e))?;
        let name = target.name.as_os_str();
        linkat(
            &target.parent,
            name,
            &place.parent,
            place.name.as_os_str(),
            AtFlags::empty(),
        )
        .map_err(|e| fault(act, path, e))
    }

    fn whiteout(&self, path: &Path, name: &[u8], hidden: &[u8]) -> Result<(), UnpackFault> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if name == OPAQUE {
            // A place within it stands for the folder itself.
            let place = self
                .root
                .place(&parent.join("x"))
                .map_err(|e| fault("find", parent, e))?;
            return set_opaque(&File::from(place.parent), parent);
        }
        if name.starts_with(BOOKKEEPING) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(UnpackFault::Outside {
                path: path.to_owned(),
            });
        }
        let hidden = parent.join(std::ffi::OsStr::from_bytes(hidden));
        let place = self
            .root
            .place(&hidden)
            .map_err(|e| fault("find the folder of", &hidden, e))?;
        match place.stat().map_err(|e| fault("look at", &hidden, e))? {
            // This layer's own file hides what is below already.
            Some(stat) if !is(&stat, SFlag::S_IFDIR) => Ok(()),
            Some(_) => {
                let fd = place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty());
                set_opaque(&File::from(fd.map_err(|e| fault("open", &hidden, e))?), &hidden)
            }
            None => mknodat(
                &place.parent,
                place.name.as_os_str(),
                SFlag::S_IFCHR,
                Mode::empty(),
                0,
            )
            .map_err(|e| fault("hide", &hidden, e)),
        }
    }

    /// Sets the times of directories, which every write in them has moved.
    fn finish(self) -> Result<(), UnpackFault> {
        for (path, mtime) in self.folders {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            let fd = match self.root.open_at(&path, flags) {
                Ok(fd) => fd,
                // A later member has replaced it.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                Err(e) => return Err(fault("open", &path, e)),
            };
            futimens(&fd, &time(mtime), &time(mtime)).map_err(|e| fault("set the time of", &path, e))?;
        }
        Ok(())
    }
}

fn file(member: &Member, path: &Path, place: &Place, content: &mut dyn Read) -> Result<(), UnpackFault> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let fd = place
        .open(flags, Mode::from_bits_truncate(0o600))
        .map_err(|e| fault("make", path, e))?;
    let mut file = File::from(fd);
    io::copy(content, &mut file).map_err(|source| UnpackFault::Content {
        path: path.to_owned(),
        source,
    })?;
    let file = describe(member, path, OwnedFd::from(file))?;
    futimens(&file, &time(member.mtime), &time(member.mtime)).map_err(|e| fault("set the time of", path, e))
}

/// Sets owner, mode and attributes of a file or directory. In this order: a change of owner takes setuid
/// bits and file capabilities away.
fn describe(member: &Member, path: &Path, fd: OwnedFd) -> Result<File, UnpackFault> {
    fchown(
        &fd,
        Some(Uid::from_raw(member.uid)),
        Some(Gid::from_raw(member.gid)),
    )
    .map_err(|e| fault("set the owner of", path, e))?;
    fchmod(&fd, Mode::from_bits_truncate(member.mode)).map_err(|e| fault("set the mode of", path, e))?;
    let file = File::from(fd);
    for (name, value) in &member.xattrs {
        let name = std::ffi::OsStr::from_bytes(name);
        if !is_taken_over(name.as_bytes()) {
            tracing::debug!(path = %path.display(), ?name, "extended attribute in a layer is left out");
            continue;
        }
        file.set_xattr(name, value)
            .map_err(|e| fault("set an extended attribute of", path, errno(&e)))?;
    }
    Ok(file)
}

/// Sets owner and time of a link or fifo, by its name.
fn describe_name(member: &Member, path: &Path, place: &Place) -> Result<(), UnpackFault> {
    let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    let name = place.name.as_os_str();
    fchownat(
        &place.parent,
        name,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .map_err(|e| fault("set the owner of", path, e))?;
    let mtime = time(member.mtime);
    utimensat(
        &place.parent,
        name,
        &mtime,
        &mtime,
        UtimensatFlags::NoFollowSymlink,
    )
    .map_err(|e| fault("set the time of", path, e))
}

/// `trusted.*` and `user.overlay.*` would speak to overlayfs, other `security.*` to this machine's policy.
fn is_taken_over(xattr: &[u8]) -> bool {
    let user = xattr.starts_with(b"user.") && !xattr.starts_with(b"user.overlay.");
    user || xattr == b"security.capability"
}

fn set_opaque(folder: &File, path: &Path) -> Result<(), UnpackFault> {
    folder
        .set_xattr(OPAQUE_XATTR, b"y")
        .map_err(|e| fault("hide what is below", path, errno(&e)))
}

fn time((seconds, nanos): (i64, i64)) -> TimeSpec {
    TimeSpec::new(seconds, nanos)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests;

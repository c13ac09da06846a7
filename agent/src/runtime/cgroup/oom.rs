//! Notice of processes that the kernel has killed for want of memory. For the monitor's loop: a file
//! descriptor to poll, and a count to read. Takes no inotify instance, of which a user has some 128.

use super::{CgroupError, tree};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The files with the count have a handful of lines.
const MAX_LENGTH: usize = 1_024;
const KEY: &str = "oom_kill";

/// Watches one group. Poll [`Self::as_fd`] for [`Self::interest`], then ask [`Self::kills`].
#[derive(Debug)]
pub struct OomWatch {
    /// Has the count.
    file: File,
    path: PathBuf,
    event: Option<EventFd>,
    last: u64,
}

impl OomWatch {
    /// Version 1 announces on an eventfd, right before it kills.
    pub(super) fn v1(path: PathBuf) -> Result<Self, CgroupError> {
        let register = || -> io::Result<(File, EventFd)> {
            let file = File::open(&path)?;
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            let control = path.with_file_name("cgroup.event_control");
            let line = format!("{} {}", event.as_fd().as_raw_fd(), file.as_raw_fd());
            std::fs::write(control, line)?;
            Ok((file, event))
        };
        let (file, event) = register().map_err(|source| CgroupError::Watch {
            path: path.clone(),
            source,
        })?;
        Self::begin(file, path, Some(event))
    }

    /// Version 2 announces on the file with the count itself.
    pub(super) fn v2(path: PathBuf) -> Result<Self, CgroupError> {
        let file = File::open(&path).map_err(|source| CgroupError::Watch {
            path: path.clone(),
            source,
        })?;
        Self::begin(file, path, None)
    }

    fn begin(file: File, path: PathBuf, event: Option<EventFd>) -> Result<Self, CgroupError> {
        let mut watch = Self {
            file,
            path,
            event,
            last: 0,
        };
        watch.kills()?;
        Ok(watch)
    }

    /// What to poll for.
    #[must_use]
    pub fn interest(&self) -> PollFlags {
        match self.event {
            Some(_) => PollFlags::POLLIN,
            None => PollFlags::POLLPRI,
        }
    }

    /// How many were killed so far, and readiness for the next notice. Version 1 gives notice before it
    /// counts: ask again when a process has ended. Of a group that is gone: the last count that was seen.
    ///
    /// # Errors
    /// [`CgroupError::Read`]; [`CgroupError::Malformed`] before Linux 4.13.
    pub fn kills(&mut self) -> Result<u64, CgroupError> {
        if let Some(event) = &self.event {
            match event.read() {
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(source) => return Err(self.unreadable(source.into())),
            }
        }
        let mut text = [0; MAX_LENGTH];
        match self.file.read_at(&mut text, 0) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&text[..length]);
                self.last = tree::value(&text, KEY).ok_or_else(|| CgroupError::Malformed {
                    path: self.path.clone(),
                    what: KEY,
                })?;
            }
            Err(fault) if tree::is_gone(&fault) => {}
            Err(source) => return Err(self.unreadable(source)),
        }
        Ok(self.last)
    }

    fn unreadable(&self, source: io::Error) -> CgroupError {
        CgroupError::Read {
            path: self.path.clone(),
            source,
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.event {
            Some(event) => event.as_fd(),
            None => self.file.as_fd(),
        }
    }
}

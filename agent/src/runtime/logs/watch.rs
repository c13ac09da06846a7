//! Notice of new output in folders of logs.

use super::LogsError;
use crate::runtime::sys::readable::readable;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// How often is looked where the kernel gives no notice: a user has some 128 instances of inotify.
const FALLBACK_PERIOD: Duration = Duration::from_millis(250);
/// Of notices, of which only that there are some is of interest.
const BUFFER: usize = 4_096;

#[derive(Debug)]
pub(super) struct Watch {
    notices: Option<OwnedFd>,
}

impl Watch {
    /// Notices changes from now on.
    ///
    /// # Errors
    /// [`LogsError::Watch`] where a folder is not there.
    pub(super) fn begin<'a>(folders: impl Iterator<Item = &'a Path>) -> Result<Self, LogsError> {
        let Ok(inotify) = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) else {
            return Ok(Self { notices: None });
        };
        for folder in folders {
            let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            inotify
                .add_watch(folder, events)
                .map_err(|source| LogsError::Watch {
                    path: folder.to_owned(),
                    source: source.into(),
                })?;
        }
        Ok(Self {
            notices: Some(inotify.into()),
        })
    }

    /// Returns when something may have changed since the last call, or since the beginning.
    ///
    /// # Errors
    /// [`LogsError::Wait`].
    pub(super) async fn changed(&self) -> Result<(), LogsError> {
        let Some(notices) = &self.notices else {
            tokio::time::sleep(FALLBACK_PERIOD).await;
            return Ok(());
        };
        let awaited = async { readable(notices.try_clone()?).await };
        awaited.await.map_err(LogsError::Wait)?;
        drain(notices).map_err(LogsError::Wait)
    }
}

/// Called before the files are read: what changes from then on is noticed anew.
fn drain(notices: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; BUFFER];
    loop {
        match nix::unistd::read(notices, &mut buffer) {
            Ok(0) | Err(nix::errno::Errno::EAGAIN) => return Ok(()),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
}

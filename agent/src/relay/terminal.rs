//! The other end of a process' terminal: the runtime makes the terminal within the container and sends its master over a
//! socket.

use super::RelayError;
use crate::runtime::monitor::receive;
use crate::runtime::sys::stream::Stream;
use crate::runtime::sys::terminal::resize;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use proto::wire::TerminalSize;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::net::UnixListener;

/// A socket that waits for a terminal. Removed when dropped.
pub(super) struct Console {
    listener: UnixListener,
    path: PathBuf,
    /// In its folder.
    pub(super) name: String,
}

impl Console {
    /// In `dir`, under a name that nobody else has.
    pub(super) fn listen(dir: &Path) -> io::Result<Self> {
        let name = format!("{:016x}.console", rand::random::<u64>());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let folder = File::open(dir)?;
        // An address ends at 108 bytes, and a path does not.
        let short = Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(&name);
        bind(listener.as_raw_fd(), &UnixAddr::new(&short)?)?;
        listen(&listener, Backlog::new(1)?)?;
        Ok(Self {
            listener: UnixListener::from_std(StdListener::from(listener))?,
            path: dir.join(&name),
            name,
        })
    }

    /// The master, once the terminal is there. Cancel safe up to the connection.
    pub(super) async fn master(&self) -> io::Result<Stream> {
        let (connection, _) = self.listener.accept().await?;
        let mut buffer = [0; 4_096];
        let received = connection.async_io(Interest::READABLE, || receive(connection.as_fd(), &mut buffer));
        let (_, streams) = received.await?;
        let master = streams.into_iter().next();
        Stream::new(master.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove a socket");
        }
    }
}

/// 1..=65535 each.
pub(super) fn checked(size: TerminalSize) -> Result<(u16, u16), RelayError> {
    let number = |number: u32| u16::try_from(number).ok().filter(|number| *number > 0);
    match (number(size.rows), number(size.columns)) {
        (Some(rows), Some(columns)) => Ok((rows, columns)),
        _ => Err(RelayError::Terminal(size.rows, size.columns)),
    }
}

/// One that can't be had is passed over: the next one may be.
pub(super) fn set(master: &Stream, size: TerminalSize) {
    let Ok((rows, columns)) = checked(size) else {
        return;
    };
    if let Err(error) = resize(master.as_fd(), rows, columns) {
        tracing::debug!(%error, "cannot resize a terminal");
    }
}

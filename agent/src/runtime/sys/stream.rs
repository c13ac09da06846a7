//! A pipe or terminal, read and written from async code. Unlike tokio's own it can be asked for what is there right now,
//! whether its driver has noticed or not: what was written before a process ended is found after its end.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Its descriptor does not block.
#[derive(Debug)]
pub(crate) struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// # Errors
    /// Where it is of a kind that epoll does not know, such as a file.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: an `OwnedFd` is an open descriptor, always the same one, until it is dropped, and what registers
        // it owns it.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// What comes next; 0: nothing more does. Cancel safe.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.read_now(buffer)? {
                Some(length) => return Ok(length),
                None => ready.clear_ready(),
            }
        }
    }

    /// What is there; `None`: nothing at present, 0: nothing more comes.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            return match nix::unistd::read(self.0.get_ref(), buffer) {
                Ok(length) => Ok(Some(length)),
                Err(Errno::EAGAIN) => Ok(None),
                Err(Errno::EINTR) => continue,
                // A terminal that nobody has open any more.
                Err(Errno::EIO) => Ok(Some(0)),
                Err(fault) => Err(fault.into()),
            };
        }
    }

    /// Returns once all is written.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match nix::unistd::write(self.0.get_ref(), bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

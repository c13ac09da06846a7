//! Who sees what a container writes while it writes it: two pipes of an agent's, filled as far as there is room. A slow
//! one loses bytes, of which it is told; it never holds up the container.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::os::fd::OwnedFd;

pub(super) struct Attachment {
    pub(super) connection: u64,
    pub(super) lost_bytes: u64,
    /// stdout and stderr; `None`: nobody reads it any more.
    outputs: [Option<OwnedFd>; 2],
}

impl Attachment {
    /// # Errors
    /// Why it is refused.
    pub(super) fn new(connection: u64, streams: Vec<OwnedFd>) -> Result<Self, String> {
        let streams: [OwnedFd; 2] = streams
            .try_into()
            .map_err(|_| "two streams must come with it".to_owned())?;
        for stream in &streams {
            fcntl(stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|fault| fault.to_string())?;
        }
        Ok(Self {
            connection,
            lost_bytes: 0,
            outputs: streams.map(Some),
        })
    }

    pub(super) fn write(&mut self, number: usize, bytes: &[u8]) {
        let Some(output) = &self.outputs[number] else {
            return;
        };
        let mut left = bytes;
        while !left.is_empty() {
            match nix::unistd::write(output, left) {
                Ok(written) => left = &left[written..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.lost_bytes += left.len() as u64;
                    return;
                }
                Err(_) => {
                    self.outputs[number] = None;
                    return;
                }
            }
        }
    }
}

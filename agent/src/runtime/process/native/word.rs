//! What a container's own process has to say until its program takes its place: that it is ready, or why it is not. Goes
//! through a pipe, which the kernel closes where the program runs.

use super::fault::Fault;
use crate::runtime::process::PATIENCE;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

/// What is kept of a message; less than what a pipe takes without a reader.
const MAX_MESSAGE: u64 = 2_048;
/// No text begins like this.
const READY: u8 = 0;

/// The process' end.
#[derive(Debug)]
pub(super) struct Speaker(File);

/// The end that stays here.
#[derive(Debug)]
pub(super) struct Hearer(File);

/// What was heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Ready,
    /// Nothing, and nothing will be: its program runs, or it has been killed.
    Silence,
    Failed(String),
    /// It says nothing in time.
    Hangs,
}

/// Both ends; neither survives execve(2).
pub(super) fn pair() -> io::Result<(Speaker, Hearer)> {
    let (reader, writer) = io::pipe()?;
    let file = |end: OwnedFd| File::from(end);
    Ok((Speaker(file(writer.into())), Hearer(file(reader.into()))))
}

impl Speaker {
    pub(super) fn ready(&self) -> Result<(), Fault> {
        let told = (&self.0).write_all(&[READY]);
        told.map_err(Fault::doing("tell that it is ready"))
    }

    pub(super) fn failed(&self, fault: &Fault) {
        // Nobody else could be told; our end, with its code, follows in any case.
        let _ = (&self.0).write_all(fault.to_string().as_bytes());
    }
}

impl Hearer {
    /// Waits for the next word.
    pub(super) fn next(&mut self) -> io::Result<Word> {
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        loop {
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, timeout) {
                Ok(0) => return Ok(Word::Hangs),
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        let mut first = [0];
        match self.0.read(&mut first)? {
            0 => Ok(Word::Silence),
            _ if first[0] == READY => Ok(Word::Ready),
            _ => {
                let mut message = first.to_vec();
                (&mut self.0).take(MAX_MESSAGE).read_to_end(&mut message)?;
                Ok(Word::Failed(String::from_utf8_lossy(&message).into_owned()))
            }
        }
    }
}

//! What the agent and its nursery say to each other: packets on a socket, with file descriptors. Owns their form.

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// No path is longer (`PATH_MAX`).
const MAX_PACKET: usize = 4_096;

/// For a monitor.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) dir: &'a Path,
    pub(super) listener: &'a UnixListener,
    pub(super) log: &'a File,
}

/// As it arrives.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) dir: PathBuf,
    pub(super) listener: OwnedFd,
    pub(super) log: OwnedFd,
}

pub(super) fn send(socket: &OwnedFd, request: &Request<'_>) -> io::Result<()> {
    let dir = request.dir.as_os_str().as_bytes();
    if dir.is_empty() || dir.len() > MAX_PACKET {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    put(
        socket,
        dir,
        &[request.listener.as_raw_fd(), request.log.as_raw_fd()],
    )
}

/// The next request; `None`: nobody will ask any more.
pub(super) fn next(socket: &OwnedFd) -> io::Result<Option<Asked>> {
    let (dir, mut fds) = take(socket)?;
    if dir.is_empty() {
        return Ok(None);
    }
    match (fds.pop(), fds.pop()) {
        (Some(log), Some(listener)) => Ok(Some(Asked {
            dir: OsString::from_vec(dir).into(),
            listener,
            log,
        })),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The monitor as a descriptor of its process, or why there is none.
pub(super) fn reply(socket: &OwnedFd, monitor: Result<OwnedFd, io::Error>) -> io::Result<()> {
    match monitor {
        Ok(process) => put(socket, b"forked", &[process.as_raw_fd()]),
        Err(fault) => put(socket, fault.to_string().as_bytes(), &[]),
    }
}

pub(super) fn answer(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let (words, mut fds) = take(socket)?;
    match fds.pop() {
        Some(process) => Ok(process),
        None if words.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(io::Error::other(String::from_utf8_lossy(&words).into_owned())),
    }
}

fn put(socket: &OwnedFd, packet: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let parts = [IoSlice::new(packet)];
    let descriptors = [ControlMessage::ScmRights(fds)];
    let with = if fds.is_empty() { &[][..] } else { &descriptors[..] };
    // A nursery that was killed must not end us by SIGPIPE.
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, with, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn take(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut packet = vec![0; MAX_PACKET];
    let mut space = cmsg_space!([RawFd; 2]);
    let mut parts = [IoSliceMut::new(&mut packet)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(given) = message {
            fds.extend(given.into_iter().map(crate::runtime::sys::fork::received));
        }
    }
    let length = received.bytes;
    packet.truncate(length);
    Ok((packet, fds))
}

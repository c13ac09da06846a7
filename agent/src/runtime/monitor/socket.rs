//! The monitor's socket: packets, so that neither side has to find where a message ends. Addressed through the
//! descriptor of its folder, because an address ends at 108 bytes and a path does not.

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    bind, connect, listen, recv, recvmsg, sendmsg, socket,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::runtime::sys::received::received;

/// A packet that is longer is refused by the kernel: it is the default size of a socket's send buffer
/// (`net.core.wmem_default`). A state takes some 100 bytes a container.
pub(super) const MAX_PACKET: usize = 208 << 10;
/// Commands are short but for the words of processes to start, which the monitor bounds.
pub(super) const MAX_COMMAND: usize = 72 << 10;
/// Descriptors that come with a packet: the standard streams of a process.
const MAX_STREAMS: usize = 3;
/// Agents that may wait until the monitor, which creates a container, takes notice of them: one, and users of its containers.
const BACKLOG: i32 = 16;

/// Makes the socket at `path` and listens. What it accepts are packets as well.
pub(super) fn listener(path: &Path) -> io::Result<UnixListener> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    at(path, |address| bind(fd.as_raw_fd(), address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(fd))
}

/// A connection that does not block. Its type is one for streams, but each read is one packet, and each
/// write as well.
///
/// # Errors
/// `ConnectionRefused` where nobody listens any more.
pub(super) fn connection(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    at(path, |address| connect(fd.as_raw_fd(), address))?;
    Ok(UnixStream::from(fd))
}

/// Sends one packet, and `streams` with it.
pub(super) fn send(socket: BorrowedFd<'_>, packet: &[u8], streams: &[BorrowedFd<'_>]) -> io::Result<()> {
    let streams: Vec<RawFd> = streams.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&streams)];
    let along = if streams.is_empty() { &rights[..0] } else { &rights };
    let parts = [IoSlice::new(packet)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, along, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// One packet, or some bytes where it is a socket for streams, and the descriptors that came with it; 0: the other side
/// has gone.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAX_STREAMS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut streams = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            streams.extend(raw.into_iter().map(received));
        }
    }
    Ok((message.bytes, streams))
}

/// One packet, in memory of its own size; empty: the other side has gone. Agents have hundreds of connections on which next
/// to nothing comes: none has a buffer of its own.
pub(super) fn packet(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let measure = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
    let length = recv(socket.as_raw_fd(), &mut [], measure)?;
    let mut packet = vec![0; length.min(MAX_PACKET)];
    let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())?;
    packet.truncate(length);
    Ok(packet)
}

fn at<T>(path: &Path, act: impl FnOnce(&UnixAddr) -> nix::Result<T>) -> io::Result<T> {
    let no_folder = || io::Error::from(io::ErrorKind::InvalidInput);
    let folder = File::open(path.parent().ok_or_else(no_folder)?)?;
    let name = path.file_name().ok_or_else(no_folder)?;
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    Ok(act(&UnixAddr::new(&short)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn long_path_is_listened_on_and_packets_stay_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("n".repeat(200));
        std::fs::create_dir(&dir).expect("made");
        let path = dir.join("socket");
        let listener = listener(&path).expect("it listens");
        let mut connection = connection(&path).expect("connected");
        for packet in [&b"one"[..], b"two"] {
            connection.write_all(packet).expect("sent");
        }
        drop(connection);
        let (mut accepted, _) = listener.accept().expect("accepted");
        let mut buffer = [0; 64];
        for want in [&b"one"[..], b"two", b""] {
            let length = accepted.read(&mut buffer).expect("read");
            assert_eq!(&buffer[..length], want);
        }
    }
}

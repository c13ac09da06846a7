//! A terminal for a process in a container, made of the container's own devices, and sent to who asked for it. Called by
//! the node's root with the container's files around it: what those are is not trusted.

use super::fault::Fault;
use super::process::Size;
use crate::runtime::sys::terminal::{control, peer, resize};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::statfs::fstatfs;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

const MULTIPLEXER: &str = "/dev/pts/ptmx";
/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS: libc::__fsword_t = 0x1cd1;
/// What is said beside it; a packet of no bytes would look like the end.
const NAME: &[u8] = b"console";

/// The standard streams of this process, which leads its session, become one; its other end goes to `console`. Gives the
/// process' end.
pub(super) fn take(console: &UnixStream, size: Size) -> Result<OwnedFd, Fault> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let at = || Fault::at("open", Path::new(MULTIPLEXER));
    let master = openat2(AT_FDCWD, MULTIPLEXER, how).map_err(at())?;
    let filesystem = fstatfs(&master).map_err(at())?.filesystem_type().0;
    if filesystem != DEVPTS {
        return Err(at()(Errno::ENOTTY));
    }
    let terminal = peer(master.as_fd()).map_err(Fault::doing("make a terminal"))?;
    // One that can't be set is set again by the user's next resize.
    resize(terminal.as_fd(), size.rows, size.columns).ok();
    send(console, &master).map_err(Fault::doing("send the terminal"))?;
    let connect = || {
        control(terminal.as_fd())?;
        dup2_stdin(&terminal)?;
        dup2_stdout(&terminal)?;
        dup2_stderr(&terminal)
    };
    connect().map_err(Fault::doing("connect its terminal"))?;
    Ok(terminal)
}

fn send(console: &UnixStream, master: &OwnedFd) -> Result<(), Errno> {
    let fds = [master.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let parts = [IoSlice::new(NAME)];
    sendmsg::<()>(console.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).map(drop)
}

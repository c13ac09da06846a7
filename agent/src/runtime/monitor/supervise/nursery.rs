//! The process `sbxlet nursery`: waits for requests, and divides for each. What comes out of a division is a monitor.

use super::super::{request, title};
use super::{SuperviseError, say, supervise};
use crate::runtime::cgroup::Cgroups;
use crate::runtime::sys::fork::{Half, Single};
use crate::runtime::sys::pidfd::PidFd;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// Runs the nursery until its agent is gone; in the monitors that come from it, until those have ended.
#[must_use]
pub fn nursery() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            say(&fault);
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), SuperviseError> {
    let system = |act| move |source: io::Error| SuperviseError::System { act, source };
    let errno = |act| move |source: nix::Error| system(act)(source.into());
    // Signals to the agent's terminal are not for us.
    setsid().map_err(errno("begin a session"))?;
    let single = Single::process()?;
    // It is what a person sees, and no more.
    title::show(&[OsStr::new("sbxlet"), OsStr::new("nursery")]).map_err(system("show a title"))?;
    let socket = take_socket().map_err(system("take the socket"))?;
    // What every monitor would find out for itself.
    let cgroups = Cgroups::detect()?;
    while let Some(asked) = request::next(&socket).map_err(system("hear a request"))? {
        let forked = match single.fork() {
            Ok(Half::Child) => {
                drop(socket);
                become_monitor(&asked).map_err(system("become a monitor"))?;
                let dir = asked.dir.clone();
                drop(asked);
                return supervise(&dir, cgroups);
            }
            Ok(Half::Parent(pid)) => PidFd::open(pid),
            Err(fault) => Err(fault),
        };
        let forked = forked.map(OwnedFd::from).map_err(io::Error::from);
        request::reply(&socket, forked).map_err(system("answer"))?;
    }
    Ok(())
}

/// The socket is its standard input, the log its standard output and error.
fn become_monitor(asked: &request::Asked) -> io::Result<()> {
    dup2_stdin(&asked.listener)?;
    dup2_stdout(&asked.log)?;
    dup2_stderr(&asked.log)?;
    let args = ["sbxlet", "monitor", "--dir"].map(OsStr::new);
    let args: Vec<&OsStr> = args.into_iter().chain([asked.dir.as_os_str()]).collect();
    title::show(&args)
}

/// Standard input is the socket: it is taken from there, so that no monitor has it there.
fn take_socket() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(socket)
}

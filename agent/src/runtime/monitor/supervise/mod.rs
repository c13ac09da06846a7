//! The monitor's process, forked from `sbxlet nursery`: one thread, no tokio, small. Sets itself up, carries the containers from their
//! creation to their end, and ends. Its standard input is the socket that agents connect to, its standard
//! output and error are its log.
//!
//! | file | owns |
//! |---|---|
//! | `nursery` | the process that monitors are forked from |
//! | `course` | the rules by which a sandbox ends; pure |
//! | `sandbox` | the loop: what happens goes to `course`, what it decides is done |
//! | `container` | one container: process, output, notice of want of memory |
//! | `execs` | processes beside containers' programs |
//! | `exec` | what such a process is to be |
//! | `attachment` | who sees what a container writes while it writes it |
//! | `agents` | who listens and commands |
//! | `allowance` | how much a container may log; pure |
//! | `score` | whom the kernel kills first for want of memory |

mod agents;
mod allowance;
mod attachment;
mod container;
mod course;
mod exec;
mod execs;
mod nursery;
mod sandbox;
mod score;

use super::{files, identity, state};
use crate::runtime::bundle::OPEN_FILES;
use crate::runtime::cgroup::{self, CgroupError, Cgroups};
use crate::runtime::process::{self, Instance, RuntimeError};
use crate::runtime::sys::fork::ForkError;
use crate::sealed::SealedError;
use agents::Agents;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, dup2_stdin, setsid};
pub use nursery::nursery;
use proto::spec;
use proto::wire;
use sandbox::Sandbox;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Processes beside containers' programs, and those who see what containers write, at one time: far above what people do,
/// so that nothing piles up. Containers' own limits hold for such processes as well.
const MAX_GUESTS: usize = 32;

/// Why a monitor could not begin, or go on. What goes wrong with a container is no such error.
#[derive(Debug, thiserror::Error)]
enum SuperviseError {
    #[error("cannot {act}: {source}")]
    System { act: &'static str, source: io::Error },
    #[error(transparent)]
    Fork(#[from] ForkError),
    #[error(transparent)]
    File(#[from] SealedError),
    #[error("there is no specification in {0}")]
    NoSpec(String),
    #[error("the specification asks for an unknown runtime, number {0}")]
    Runtime(i32),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Open(#[from] RuntimeError),
}

/// Writes into the monitor's log. That the disk is full must not end what it watches, as `eprintln!` would.
fn say(words: impl Display) {
    writeln!(io::stderr(), "{words}").ok();
}

/// The monitor of the folder `dir`, as which [`super::launch`] has had this process forked.
fn supervise(dir: &Path, cgroups: Cgroups) -> Result<(), SuperviseError> {
    let system = |act| move |source: io::Error| SuperviseError::System { act, source };
    let errno = |act| move |source: nix::Error| system(act)(source.into());
    setsid().map_err(errno("begin a session"))?;
    // What containers' processes leave behind comes to us, also the first processes that `runc` starts.
    nix::sys::prctl::set_child_subreaper(true).map_err(errno("become a subreaper"))?;
    let agents = Agents::new(take_socket().map_err(system("take the socket"))?);
    let agents = agents.map_err(system("prepare the socket"))?;
    let no_spec = || SuperviseError::NoSpec(dir.display().to_string());
    let spec = files::read_spec(dir)?.ok_or_else(no_spec)?;
    let own = cgroup::of_monitor(Path::new(&spec.cgroup));
    cgroups.join(&own)?;
    let state = wire::MonitorState {
        sequence: 1,
        process: Some(identity::of(Pid::this()).map_err(system("find out who we are"))?),
        ..state::starting(&spec)
    };
    files::write_state(dir, &state)?;
    let kind = runtime_of(&spec)?;
    if spec.root_id != 0 && kind == spec::Runtime::Runc {
        limit_files().map_err(errno("limit open files"))?;
    }
    let instance = spec.instance.as_ref().map(|instance| Instance {
        bundle: Path::new(&instance.bundle),
        platform: &instance.platform,
    });
    let runtime = process::open(
        kind,
        instance,
        &files::runtime(dir),
        &files::runtime_log(dir),
        &cgroups,
    )?;
    let mut sandbox = Sandbox::new(dir, spec, state, cgroups, runtime, agents)?;
    sandbox.start();
    sandbox.watch()?;
    sandbox.end();
    Ok(())
}

/// What is started has these limits where the runtime can't set others; see [`process::sets_limits`]. A runtime in Go allows
/// itself all that it may, and hands that on: so no more may be allowed than is of use to every program.
fn limit_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let files = hard.min(OPEN_FILES);
    setrlimit(Resource::RLIMIT_NOFILE, files, files)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// Standard input is the socket: it is taken from there, so that no container gets it.
fn take_socket() -> io::Result<UnixListener> {
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(UnixListener::from(listener))
}

fn runtime_of(spec: &wire::MonitorSpec) -> Result<spec::Runtime, SuperviseError> {
    let unknown = || SuperviseError::Runtime(spec.runtime);
    match wire::Runtime::try_from(spec.runtime) {
        Ok(wire::Runtime::Native) => Ok(spec::Runtime::Native),
        Ok(wire::Runtime::Runc) => Ok(spec::Runtime::Runc),
        Ok(wire::Runtime::Crun) => Ok(spec::Runtime::Crun),
        Ok(wire::Runtime::Runsc) => Ok(spec::Runtime::Runsc),
        Ok(wire::Runtime::Unspecified) | Err(_) => Err(unknown()),
    }
}

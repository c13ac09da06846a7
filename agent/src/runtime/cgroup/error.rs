//! Why something could not be done with a control group.

use nix::errno::Errno;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "this machine's cgroups lack the controller {controller} ({mode}): enable it in the kernel, on its \
         command line, or in what delegates cgroups to the agent"
    )]
    NoController {
        controller: &'static str,
        mode: &'static str,
    },
    #[error("{} is no path of a cgroup: it must be absolute, without `..`, and not `/`", path.display())]
    Path { path: PathBuf },
    #[error("cannot make the cgroup {}: {source}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{value}` to {}: {source}", path.display())]
    Write {
        path: PathBuf,
        value: String,
        source: io::Error,
    },
    #[error(
        "cannot restrict the devices of the cgroup {}: {source}; the kernel needs CONFIG_CGROUP_BPF, and the agent \
         CAP_BPF", path.display()
    )]
    Devices { path: PathBuf, source: io::Error },
    #[error("{} has no {what}", path.display())]
    Malformed { path: PathBuf, what: &'static str },
    #[error(
        "the cgroup {} has processes itself, so that it cannot hand on the controllers {controllers}: run the \
         agent in a cgroup below it", path.display()
    )]
    Occupied { path: PathBuf, controllers: String },
    #[error("cannot signal process {pid} of the cgroup {}: {source}", path.display())]
    Signal { path: PathBuf, pid: i32, source: Errno },
    #[error("{count} processes of the cgroup {} have not ended {seconds} s after SIGKILL", path.display())]
    Alive {
        path: PathBuf,
        count: usize,
        seconds: u64,
    },
    #[error("cannot await the end of the processes of the cgroup {}: {source}", path.display())]
    Wait { path: PathBuf, source: Errno },
    #[error("cannot remove the cgroup {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("cannot watch {} for out-of-memory kills: {source}", path.display())]
    Watch { path: PathBuf, source: io::Error },
}

impl CgroupError {
    /// The group could not be made for want of the one above.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Make { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

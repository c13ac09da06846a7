//! The process `sbxlet copy`: one thread, without tokio. What goes wrong is told on standard error, for a person.

use super::inside::{Inside, InsideError};
use super::{Direction, Task};
use crate::runtime::cgroup::{self, CgroupError, Cgroups};
use crate::runtime::monitor;
use crate::sealed::SealedError;
use proto::wire;
use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use tree::{Folder, Policy, Target, TreeError};

/// Whom the kernel kills first where memory is short: a copy can be made again.
const OOM_SCORE: &str = "1000";
/// As much as a pipe holds.
const BUFFER: usize = 64 << 10;
/// Files are root's, as if root in the container had copied them.
const POLICY: Policy = Policy {
    owner: Some((0, 0)),
    mode: 0o7777,
    links: true,
};

#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    File(#[from] SealedError),
    #[error("the sandbox has not been started")]
    NotStarted,
    #[error("there is no container {0}")]
    NoContainer(String),
    #[error("a sandbox of runsc keeps its files to itself; use `tar` with `sbxctl exec`")]
    Runsc,
    #[error("{0:?} is no absolute path")]
    Relative(PathBuf),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot offer itself to be killed first: {0}")]
    Score(io::Error),
    #[error(transparent)]
    Inside(#[from] InsideError),
    #[error("there is no room left in the container: {0}")]
    Full(TreeError),
    #[error("{0}")]
    Tree(TreeError),
    #[error("cannot write the archive: {0}")]
    Output(io::Error),
}

impl From<TreeError> for WorkError {
    fn from(error: TreeError) -> Self {
        match error.is_full() {
            true => Self::Full(error),
            false => Self::Tree(error),
        }
    }
}

/// Copies between the container and standard input or output, as [`super::launch`] has asked for.
#[must_use]
pub fn main(task: &Task) -> ExitCode {
    match work(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

fn work(task: &Task) -> Result<(), WorkError> {
    if !task.path.is_absolute() {
        return Err(WorkError::Relative(task.path.clone()));
    }
    let spec = monitor::read_spec(&task.monitor)?.ok_or(WorkError::NotStarted)?;
    let container = spec.containers.iter().find(|c| c.name == task.container);
    let container = container.ok_or_else(|| WorkError::NoContainer(task.container.clone()))?;
    if spec.runtime() == wire::Runtime::Runsc {
        return Err(WorkError::Runsc);
    }
    let cgroups = Cgroups::detect()?;
    let inside = Inside::find(&cgroups, Path::new(&container.cgroup), &container.name)?;
    let root = inside.root()?;
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).map_err(WorkError::Score)?;
    // Before anything is written: a page counts where it is first touched. Not the container's own group, where a
    // program at its limit would have to make room for us.
    cgroups.join(&cgroup::of_monitor(Path::new(&spec.cgroup)))?;
    inside.become_root()?;
    match task.direction {
        Direction::In => {
            let target = Target::inside(&root, &task.path)?;
            tree::unpack(io::stdin().lock(), target, POLICY)?;
        }
        Direction::Out => {
            let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
            let (folder, name) = source(&root, &task.path)?;
            tree::pack(&folder, &name, Path::new(&name), &mut out)?;
            out.flush().map_err(WorkError::Output)?;
        }
    }
    Ok(())
}

/// The directory that `path` is in, and its name there, which is also its name in the stream; a path that ends with
/// `/.`, or is `/`, is the directory itself without a name: `.`.
fn source(root: &Folder, path: &Path) -> Result<(Folder, std::ffi::OsString), WorkError> {
    let open = |path: &Path| {
        root.inside(path).map_err(|source| TreeError::File {
            act: "open",
            path: path.to_owned(),
            source,
        })
    };
    let is_itself = path.as_os_str().as_encoded_bytes().ends_with(b"/.");
    match path.components().next_back() {
        Some(Component::Normal(name)) if !is_itself => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            Ok((open(parent)?, name.to_owned()))
        }
        Some(_) | None => Ok((open(path)?, OsStr::new(".").to_owned())),
    }
}

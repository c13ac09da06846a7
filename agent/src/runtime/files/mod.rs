//! The folder of one sandbox, as far as it is files and mounts:
//!
//! ```text
//! run/                           a tmpfs: making and removing some twenty files costs no disk anything
//!     volumes/<name>/            a tmpfs each
//!     containers/<name>/root/    tmpfs of the writable layer; not there where the root is read-only
//!                       tmp/     tmpfs of the `/tmp` budget, with a folder for each thing that draws on it:
//!                                tmp, shm, tmpfs-<n>, and points where the root is read-only
//!                       tmpfs-<n>/  a tmpfs each that has a size of its own
//!                       rootfs/  the overlay
//!                       bundle/  for the OCI spec
//!     instance/rootfs/           of the container that holds a gVisor instance
//!              bundle/           for its OCI spec
//!     etc/                       hosts, hostname, resolv.conf
//! logs/<name>/                   stays until the sandbox is deleted
//! ```
//!
//! With a user namespace, all that containers may change is owned by who root is in there, and the folders on the way to
//! `rootfs/` can be passed by that group, and by nobody else: the OCI runtime goes there as root of the namespace.
//!
//! Containers see parts of this, never the folder itself: what they can change is on the mounts only, so
//! that nothing here follows a link of theirs. Knows nothing of `ns/`, `monitor/` and processes. Called by `execute`.

mod instance;
mod prepare;
mod release;

pub use instance::{IDLE, InstanceFiles, prepare_instance};
pub use prepare::{Etc, prepare_container, prepare_sandbox};
pub use release::{release, remove};

use super::mount::MountError;
use super::user_namespace::UserNamespace;
use nix::errno::Errno;
use proto::id::Name;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

const RUN: &str = "run";
/// In there.
const VOLUMES: &str = "volumes";
const CONTAINERS: &str = "containers";
const INSTANCE: &str = "instance";
const ETC: &str = "etc";
const LOGS: &str = "logs";

/// What the containers of a sandbox share. All of it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxFiles {
    pub dir: PathBuf,
    /// What is gone with the sandbox's end.
    pub run: PathBuf,
    /// One per volume.
    pub volumes: BTreeMap<Name, PathBuf>,
    pub hosts: PathBuf,
    pub host_name: PathBuf,
    pub resolv_conf: PathBuf,
    /// Whose root owns what the containers may change.
    pub user_namespace: Option<UserNamespace>,
}

/// What is a container's own. All of it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFiles {
    pub rootfs: PathBuf,
    /// For `/tmp`.
    pub tmp: PathBuf,
    /// For `/dev/shm`.
    pub shm: PathBuf,
    /// One per `tmpfs` of the container, in their order.
    pub tmpfs: Vec<PathBuf>,
    /// Empty, for `config.json`.
    pub bundle: PathBuf,
    pub logs: PathBuf,
}

/// What could not be done in the folder of a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot make {}: {source}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("cannot remove {}: {source}", path.display())]
    Remove { path: PathBuf, source: Errno },
}

/// Where the logs of a container are, also after the end of the sandbox.
#[must_use]
pub fn logs_of(dir: &Path, container: &Name) -> PathBuf {
    dir.join(LOGS).join(container.as_str())
}

#[cfg(test)]
mod tests;

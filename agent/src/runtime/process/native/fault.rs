//! What failed in a container's own process, and at which act: that is all that can be told from there.

use super::plan::PlanError;
use crate::runtime::cgroup::CgroupError;
use crate::runtime::seccomp::FilterError;
use nix::errno::Errno;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("cannot {act}: {}", source.desc())]
    Do { act: &'static str, source: Errno },
    #[error("cannot {act} {}: {}", path.display(), source.desc())]
    At {
        act: &'static str,
        path: PathBuf,
        source: Errno,
    },
    /// As all runtimes have it: what is not there is told from what can't be run by these words.
    #[error("exec {program}: {}", source.desc())]
    Program { program: String, source: Errno },
    #[error("cannot understand {}: {source}", path.display())]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl Fault {
    /// For `map_err`.
    pub(super) fn doing<E: Into<Error>>(act: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Do {
            act,
            source: source.into().0,
        }
    }

    /// For `map_err`.
    pub(super) fn at<E: Into<Error>>(act: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::At {
            act,
            path: path.to_owned(),
            source: source.into().0,
        }
    }
}

/// The kernel's number, of whatever has carried it.
pub(super) struct Error(Errno);

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self(errno)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }
}

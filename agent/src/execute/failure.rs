//! What can go wrong when a sandbox is made, and which reason a user reads for it.

use crate::address::Exhausted;
use crate::plan::Outcome;
use crate::runtime::bundle::BundleError;
use crate::runtime::cgroup::CgroupError;
use crate::runtime::files::FilesError;
use crate::runtime::image::ImageError;
use crate::runtime::monitor::MonitorError;
use crate::runtime::namespace::NamespaceError;
use crate::runtime::network::NetworkError;
use crate::runtime::probe::ProbeFailure;
use crate::runtime::seccomp::{FilterError, SeccompError};
use crate::runtime::user::UserError;
use crate::sealed::SealedError;
use crate::user_ids;
use oci_spec::OciSpecError;
use proto::convert::ConvertError;
use proto::id::Name;
use proto::status::Reason;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("container {container}: {source}")]
    Image {
        container: Name,
        source: Box<ImageError>,
    },
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("container {container}: {source}")]
    User { container: Name, source: UserError },
    #[error("container {container}: {source}")]
    Seccomp {
        container: Name,
        source: Box<SeccompError>,
    },
    #[error("container {container}: {source}")]
    Filter {
        container: Name,
        source: Box<FilterError>,
    },
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("cannot save the OCI spec {}: {source}", path.display())]
    SaveSpec { path: PathBuf, source: OciSpecError },
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    #[error("its containers were not started within {0:?}, start_timeout")]
    StartTimeout(Duration),
    #[error(transparent)]
    Probe(Box<ProbeFailure>),
    #[error(transparent)]
    Address(#[from] Exhausted),
    #[error(transparent)]
    UserIds(#[from] user_ids::Exhausted),
    #[error(transparent)]
    Record(#[from] SealedError),
    #[error("cannot make the folder of the sandbox {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("this agent cannot read what it shall run, which may come from a newer control plane: {0}")]
    Spec(Box<ConvertError>),
    #[error("a fault of this agent: {0} is missing where it is needed")]
    Missing(&'static str),
    #[error("a fault of this agent: the task of the sandbox has died, see the agent's log")]
    Died,
}

impl Failure {
    /// What this node fails at by itself may well succeed on another.
    fn reason(&self) -> Reason {
        match self {
            Self::Image { source, .. } if !source.is_of_node() => Reason::ImagePullFailed,
            Self::User { .. }
            | Self::Seccomp { .. }
            | Self::Filter { .. }
            | Self::Bundle(_)
            | Self::StartTimeout(_) => Reason::StartFailed,
            Self::Probe(_) => Reason::ProbeFailed,
            Self::Image { .. }
            | Self::Namespace(_)
            | Self::Network(_)
            | Self::Files(_)
            | Self::Cgroup(_)
            | Self::SaveSpec { .. }
            | Self::Monitor(_)
            | Self::Address(_)
            | Self::UserIds(_)
            | Self::Record(_)
            | Self::Folder { .. }
            | Self::Spec(_)
            | Self::Missing(_)
            | Self::Died => Reason::AgentError,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::failed(self.reason(), self.to_string())
    }
}

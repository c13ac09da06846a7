//! Controllers of version 1, and a unified tree without any that matter. We make nothing in the unified
//! tree; but an OCI runtime may, so that the end of a sandbox looks there, too.

use super::v1::Hierarchies;
use super::{CgroupError, kill, tree};
use std::iter;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub(super) struct Hybrid {
    pub(super) v1: Hierarchies,
    unified: PathBuf,
}

impl Hybrid {
    pub(super) fn new(v1: Hierarchies, unified: PathBuf) -> Self {
        Self { v1, unified }
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = &Path> {
        self.v1.roots().chain(iter::once(self.unified.as_path()))
    }

    pub(super) fn kill(&self, path: &Path) -> Result<(), CgroupError> {
        kill::by_signal(
            path,
            &self.groups(path)?,
            &self.v1.freezer(path)?,
            &self.v1.quota(path)?,
        )
    }

    pub(super) fn remove(&self, path: &Path) -> Vec<CgroupError> {
        match self.groups(path) {
            Ok(groups) => tree::remove(&groups),
            Err(fault) => vec![fault],
        }
    }

    /// The group in every tree.
    fn groups(&self, path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
        self.roots().map(|root| tree::at(root, path)).collect()
    }
}

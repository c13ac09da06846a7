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
        let mut groups = self.v1.groups(path)?;
        groups.push(tree::at(&self.unified, path)?);
        kill::by_signal(path, &groups, &self.v1.freezer(path)?)
    }

    pub(super) fn remove(&self, path: &Path) -> Vec<CgroupError> {
        let mut faults = self.v1.remove(path);
        match tree::at(&self.unified, path) {
            Ok(folder) => faults.extend(tree::remove(&folder)),
            // Told of by the trees above.
            Err(_) => {}
        }
        faults
    }
}

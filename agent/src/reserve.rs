//! Space on the disk that is kept for what must be written although the disk is full: what shall run here. Without
//! it a full disk could not even be told to remove what fills it. Owns the file; knows nothing of what is written
//! in its place. Called by `ledger`.

use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "reserve";
/// Some hundred bytes a sandbox, twice as long as the new file stands beside the old one: enough for thousands.
const BYTES: i64 = 4 << 20;

#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// That of the folder `dir`, made if there is space for it.
    pub(crate) fn keep(dir: &Path) -> Self {
        let reserve = Self { path: dir.join(FILE) };
        reserve.restore();
        reserve
    }

    /// Makes it again after it was spent, if there is space by now.
    pub(crate) fn restore(&self) {
        if self.path.exists() {
            return;
        }
        let made = File::create_new(&self.path)
            .and_then(|file| Ok(fallocate(file, FallocateFlags::empty(), 0, BYTES)?));
        if let Err(error) = made {
            tracing::warn!(path = %self.path.display(), %error, "cannot keep space for when the disk is full");
            // Half of it would pass for all of it.
            fs::remove_file(&self.path).ok();
        }
    }

    /// Spends it where `fault` is a full disk. True: there is space now, try again.
    pub(crate) fn spend(&self, fault: &io::Error) -> bool {
        fault.kind() == io::ErrorKind::StorageFull && fs::remove_file(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_takes_space_until_it_is_spent() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let reserve = Reserve::keep(folder.path());
        assert_eq!(fs::metadata(&path).expect("there").len(), BYTES as u64);
        assert!(!reserve.spend(&io::ErrorKind::PermissionDenied.into()));
        assert!(path.exists());
        assert!(reserve.spend(&io::ErrorKind::StorageFull.into()));
        assert!(!reserve.spend(&io::ErrorKind::StorageFull.into()), "only once");
        reserve.restore();
        assert!(path.exists());
    }
}

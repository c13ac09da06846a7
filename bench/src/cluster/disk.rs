//! What this disk takes for a small write that is to outlive a power cut: the floor under every acknowledgement.

use crate::error::BenchError;
use crate::quantile::Summary;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

/// Appends `bytes` to a file of the folder and syncs it, again and again, as a log does.
///
/// # Errors
/// Where the disk fails.
pub(super) fn fdatasync(folder: &Path, bytes: usize, times: usize) -> Result<Summary, BenchError> {
    let system = |source: io::Error| BenchError::System {
        act: "measure fdatasync",
        source,
    };
    let path = folder.join("fdatasync");
    let mut file = File::create(&path).map_err(system)?;
    let block = vec![0x5a; bytes];
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let begun = Instant::now();
        file.write_all(&block).map_err(system)?;
        file.sync_data().map_err(system)?;
        took.push(begun.elapsed());
    }
    std::fs::remove_file(&path).map_err(system)?;
    Summary::of(&took).ok_or(BenchError::Nothing("syncs"))
}

//! What a sandbox's folder says of it: how far it is, what was told of it last, and which user ids it has. Owns the file `record` in
//! there. Outlives the agent, not a power cut: that ends all sandboxes anyway. Written by `execute`, read by `observe`.

use crate::runtime::user_namespace::IdRange;
use crate::sealed::{self, Durability, SealedError};
use proto::id::Uid;
use proto::wire;
use std::path::{Path, PathBuf};

pub use wire::sandbox_record::Stage as RecordStage;

const FILE: &str = "record";
const MAGIC: [u8; 4] = *b"SBXR";

/// The folder of a sandbox, below that of all.
#[must_use]
pub fn folder(sandboxes: &Path, uid: Uid) -> PathBuf {
    sandboxes.join(uid.to_string())
}

/// What was noted.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub stage: RecordStage,
    pub report: wire::SandboxReport,
    /// `None`: those of the host.
    pub user_ids: Option<IdRange>,
}

/// # Errors
/// [`SealedError`], with the path.
pub fn write(
    dir: &Path,
    stage: RecordStage,
    report: &wire::SandboxReport,
    user_ids: Option<IdRange>,
) -> Result<(), SealedError> {
    let record = wire::SandboxRecord {
        stage: stage.into(),
        report: Some(report.clone()),
        first_user_id: user_ids.map_or(0, IdRange::root),
    };
    sealed::write(&dir.join(FILE), MAGIC, &record, Durability::Process)
}

/// `None` where there is none: then nothing of the sandbox has run, because the first record is written before
/// anything else.
///
/// # Errors
/// [`SealedError`]: nobody knows any more whether it has run.
pub fn read(dir: &Path) -> Result<Option<Record>, SealedError> {
    let record = sealed::read::<wire::SandboxRecord>(&dir.join(FILE), MAGIC)?;
    Ok(record.map(|record| Record {
        stage: record.stage(),
        user_ids: IdRange::from(record.first_user_id),
        report: record.report.unwrap_or_default(),
    }))
}

/// The sandboxes that have a folder.
///
/// # Errors
/// Where the folder of all can't be listed.
pub fn all(sandboxes: &Path) -> std::io::Result<Vec<Uid>> {
    let mut uids = Vec::new();
    for entry in std::fs::read_dir(sandboxes)? {
        match entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            Some(uid) => uids.push(Uid(uid)),
            None => tracing::warn!(folder = %sandboxes.display(), "something else than a sandbox is in here"),
        }
    }
    uids.sort_unstable();
    Ok(uids)
}

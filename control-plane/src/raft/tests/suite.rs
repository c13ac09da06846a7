//! openraft's own suite for stores.

use crate::raft::log_store::LogStore;
use crate::raft::state_store::StateStore;
use crate::raft::types::TypeConfig;
use crate::state::Level;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, StateStore, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateStore), StorageError<TypeConfig>> {
        let failed = |e| StorageError::read(TypeConfig::err_from_error(&e));
        let dir = TempDir::new().expect("a folder");
        let log = LogStore::open(dir.path()).map_err(failed)?;
        let state = StateStore::open(dir.path(), log.progress(), Level::NEWEST).map_err(failed)?;
        Ok((dir, log, state))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes() {
    Suite::test_all(OnDisk).await.expect("the suite");
}

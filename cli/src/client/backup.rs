//! The whole state of a cluster as a stream. Not begun again by itself when it breaks off: it would be another moment's.

use super::fault::text;
use super::retry::Route;
use super::{Client, ClientError};
use proto::wire;
use proto::wire::cluster_client::ClusterClient;
use std::time::Duration;
use tonic::Streaming;

/// A replica that sends nothing for so long has failed: it reads its disk alone.
const SILENCE: Duration = Duration::from_secs(30);
/// A part is below 1 MiB, but for the start, which names all files.
const MAX_PART_BYTES: usize = 8 << 20;

/// A backup under way.
pub struct BackupParts(Streaming<wire::BackupPart>);

impl Client {
    /// Begins a backup: from the leader, or with `stale` from any replica.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn backup(&self, stale: bool) -> Result<BackupParts, ClientError> {
        let route = if stale { Route::Any } else { Route::Leader };
        let parts = self
            .ask("back up the cluster", route, |service| async move {
                let request = wire::BackupRequest { stale };
                let client = ClusterClient::new(service).max_decoding_message_size(MAX_PART_BYTES);
                let mut client = client;
                client.backup(request).await
            })
            .await?;
        Ok(BackupParts(parts))
    }
}

impl BackupParts {
    /// The next part; `None` behind the last one.
    ///
    /// # Errors
    /// [`ClientError::Broken`]
    pub async fn next(&mut self) -> Result<Option<wire::BackupPart>, ClientError> {
        let broken = |why: String| ClientError::Broken {
            act: "back up the cluster".to_owned(),
            why,
        };
        match tokio::time::timeout(SILENCE, self.0.message()).await {
            Ok(Ok(part)) => Ok(part),
            Ok(Err(status)) => Err(broken(text(&status))),
            Err(_) => Err(broken(format!("nothing has come for {SILENCE:?}"))),
        }
    }
}

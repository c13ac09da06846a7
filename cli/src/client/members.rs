//! Replicas taken in and out. Each change may be asked for again: it goes on where it was, under whichever leader.

use super::fault::{Verdict, judge, text};
use super::retry::{Patience, Route};
use super::{Client, ClientError, Endpoint, request_id};
use proto::wire::cluster_client::ClusterClient;
use proto::wire::{self, replica_progress::Stage};
use tonic::Streaming;

impl Client {
    /// Takes a running, empty replica in; `progress` is told how it catches up. Waits for that without end.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn add_replica(
        &self,
        id: u64,
        peer: &Endpoint,
        server: &Endpoint,
        learner: bool,
        progress: impl FnMut(&wire::ReplicaProgress),
    ) -> Result<(), ClientError> {
        let request = wire::AddReplicaRequest {
            id,
            peer_endpoint: peer.to_string(),
            endpoint: server.to_string(),
            learner,
        };
        let goal = if learner { Stage::CaughtUp } else { Stage::Voter };
        let act = format!("add replica {id}");
        let open = async || {
            self.ask(&act, Route::Leader, |service| {
                let request = request.clone();
                async move { ClusterClient::new(service).add_replica(request).await }
            })
            .await
        };
        self.see_through(&act, goal, open, progress).await
    }

    /// Gives a learner a vote, once it has caught up.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn promote_replica(
        &self,
        id: u64,
        progress: impl FnMut(&wire::ReplicaProgress),
    ) -> Result<(), ClientError> {
        let act = format!("promote replica {id}");
        let open = async || {
            self.ask(&act, Route::Leader, |service| async move {
                let request = wire::PromoteReplicaRequest { id };
                ClusterClient::new(service).promote_replica(request).await
            })
            .await
        };
        self.see_through(&act, Stage::Voter, open, progress).await
    }

    /// Takes a replica out, for good.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn remove_replica(&self, id: u64, force: bool) -> Result<(), ClientError> {
        self.ask(
            &format!("remove replica {id}"),
            Route::Leader,
            |service| async move {
                let request = wire::RemoveReplicaRequest { id, force };
                ClusterClient::new(service).remove_replica(request).await
            },
        )
        .await
        .map(|_: wire::RemoveReplicaResponse| ())
    }

    /// What each replica holds, at one entry of the log; in their order.
    ///
    /// # Errors
    /// [`ClientError`], also where the leader is lost meanwhile.
    pub async fn check_replicas(&self) -> Result<Vec<wire::CheckedReplica>, ClientError> {
        let act = "check the replicas";
        let request_id = request_id();
        let mut answers: Streaming<wire::CheckedReplica> = self
            .ask(act, Route::Leader, |service| {
                let request_id = request_id.clone();
                async move {
                    let request = wire::CheckRequest { request_id };
                    ClusterClient::new(service).check(request).await
                }
            })
            .await?;
        let mut replicas = Vec::new();
        while let Some(replica) = answers
            .message()
            .await
            .map_err(|status| ClientError::refused(act, &status))?
        {
            replicas.push(replica);
        }
        replicas.sort_by_key(|replica| replica.id);
        Ok(replicas)
    }

    /// Lets another replica lead; the one that does then.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<u64, ClientError> {
        let to = to.unwrap_or_default();
        self.ask(
            "transfer the leadership",
            Route::LeaderAlone,
            |service| async move {
                let request = wire::TransferLeadershipRequest { to };
                ClusterClient::new(service).transfer_leadership(request).await
            },
        )
        .await
        .map(|done: wire::TransferLeadershipResponse| done.leader_id)
    }

    /// Reads steps up to `goal`, from the next leader where one is lost.
    async fn see_through(
        &self,
        act: &str,
        goal: Stage,
        open: impl AsyncFn() -> Result<Streaming<wire::ReplicaProgress>, ClientError>,
        mut progress: impl FnMut(&wire::ReplicaProgress),
    ) -> Result<(), ClientError> {
        let mut patience = Patience::new(self);
        loop {
            let mut steps = open().await?;
            let why = loop {
                match steps.message().await {
                    Ok(Some(step)) => {
                        patience.progress();
                        progress(&step);
                        if step.stage() == goal {
                            return Ok(());
                        }
                    }
                    Ok(None) => break "the replica ended the stream".to_owned(),
                    Err(status) => match judge(&status) {
                        Verdict::Final | Verdict::Untrusted(_) => {
                            return Err(ClientError::refused(act, &status));
                        }
                        Verdict::Redirect(_) | Verdict::Retry | Verdict::Later(_) => break text(&status),
                    },
                }
            };
            tracing::debug!(act, why, "broken off, asking again");
            patience.broken(act, &why).await?;
        }
    }
}

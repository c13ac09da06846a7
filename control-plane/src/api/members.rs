//! Who makes up the control plane: checked by the leader's `raft::members`, told to the audit here.

use super::write::check_request_id;
use super::{Api, Fault};
use crate::access::{Caller, audit};
use crate::raft::{Leader, MemberError, Summed};
use futures::stream::{Stream, StreamExt};
use proto::wire;
use tokio::sync::mpsc;

/// Words on how a learner goes on that somebody has not read yet; the next one says more.
const PROGRESS: usize = 4;

/// How a change goes on: words on it, and at last why it ended otherwise than well.
pub type Steps = mpsc::Receiver<Result<wire::ReplicaProgress, Fault>>;

impl Api {
    /// Takes a replica in. What is wrong with it is told at once; then, step by step, how it catches up.
    ///
    /// # Errors
    /// [`Fault::Member`] and [`Fault::NotLeader`]
    pub async fn add_replica(
        &self,
        caller: &Caller,
        request: wire::AddReplicaRequest,
    ) -> Result<Steps, Fault> {
        let wire::AddReplicaRequest {
            id,
            peer_endpoint,
            endpoint,
            learner,
        } = request;
        let member = wire::Member {
            id,
            peer_endpoint,
            endpoint,
        };
        let added = self.replica.add_member(member).await.map_err(Fault::from);
        audit::note(caller, "add", &format!("replica/{id}"), &added);
        added?;
        Ok(self.promoting(caller.clone(), id, learner))
    }

    /// Makes a learner a voter, step by step.
    #[must_use]
    pub fn promote_replica(&self, caller: &Caller, id: u64) -> Steps {
        self.promoting(caller.clone(), id, false)
    }

    fn promoting(&self, caller: Caller, id: u64, learner: bool) -> Steps {
        let (told, steps) = mpsc::channel(PROGRESS);
        let replica = self.replica.clone();
        tokio::spawn(async move {
            let (progress, mut words) = mpsc::channel(PROGRESS);
            let hand_on = async {
                while let Some(word) = words.recv().await {
                    if told.send(Ok(word)).await.is_err() {
                        // Nobody waits any more: the replica stays what it is.
                        words.close();
                    }
                }
            };
            let promoting = async move {
                let promoted = replica.promote_member(id, learner, &progress).await;
                drop(progress);
                promoted.map_err(Fault::from)
            };
            let (promoted, ()) = tokio::join!(promoting, hand_on);
            if !learner {
                audit::note(&caller, "promote", &format!("replica/{id}"), &promoted);
            }
            if let Err(fault) = promoted {
                told.send(Err(fault)).await.ok();
            }
        });
        steps
    }

    /// Takes a replica out, for good.
    ///
    /// # Errors
    /// [`Fault::Member`] and [`Fault::NotLeader`]
    pub async fn remove_replica(&self, caller: &Caller, id: u64, force: bool) -> Result<(), Fault> {
        let removed = self.replica.remove_member(id, force).await.map_err(Fault::from);
        audit::note(caller, "remove", &format!("replica/{id}"), &removed);
        removed
    }

    /// Sums all that the replicas hold, each at the same entry of the log.
    ///
    /// # Errors
    /// [`Fault`]
    pub async fn check_replicas(
        &self,
        caller: &Caller,
        request_id: String,
    ) -> Result<impl Stream<Item = wire::CheckedReplica> + Send + use<>, Fault> {
        let checked = async {
            check_request_id(&request_id)?;
            Ok::<_, Fault>(self.replica.check_state(request_id).await?)
        };
        let checked = checked.await;
        audit::note(caller, "check", "replicas", &checked);
        let replica = |(id, summed)| match summed {
            Ok(Summed { index, digest }) => wire::CheckedReplica {
                id,
                index,
                sum: digest.0.to_vec(),
                failure: String::new(),
            },
            Err(failure) => wire::CheckedReplica {
                id,
                failure,
                ..Default::default()
            },
        };
        Ok(checked?.map(replica))
    }

    /// Lets another replica lead; `to` 0: whichever is best prepared.
    ///
    /// # Errors
    /// [`Fault::Member`] and [`Fault::NotLeader`]
    pub async fn transfer_leadership(&self, caller: &Caller, to: u64) -> Result<Leader, Fault> {
        let transferred = self.replica.transfer_leadership(to).await;
        let transferred = match transferred {
            // Somebody has asked before: `to` leads by now.
            Err(MemberError::NotLeader { leader: Some(leader) }) if leader.id == to => Ok(leader),
            transferred => transferred.map_err(Fault::from),
        };
        let what = match &transferred {
            Ok(leader) => format!("leadership to replica/{}", leader.id),
            Err(_) => "leadership".to_owned(),
        };
        audit::note(caller, "transfer", &what, &transferred);
        transferred
    }
}

//! The membership at run time: replicas are taken in, promoted and removed, one change at a time, by the leader.
//!
//! Owns the order of each change and what is checked before it; the entries are openraft's, the numbers that were used
//! once are [`crate::state`]'s. Every change may be asked for again after a failure, and then goes on where it was.
//! Called by `api` and by [`super::replica`].

use super::describe;
use super::leadership::Leader;
use super::levels::Levels;
use super::link::{Lane, Links};
use super::propose::{Proposals, ProposeError};
use super::replica::Raft;
use super::replicated::Replicated;
use super::types::{Member, TypeConfig};
use crate::clock;
use crate::state::{self, Level};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::metrics::RaftMetrics;
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, ServerState};
use proto::wire::{self, command::Op, replica_progress::Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};

/// For the entries of one change, an election included: a change without a quorum must end.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Before another attempt where the entries of the change before are not committed yet.
const CHANGE_PAUSE: Duration = Duration::from_millis(20);
/// For the first word of a replica that is to be taken in.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// For a replica that can be reached to be heard of: some heartbeats.
const HEARING: Duration = Duration::from_secs(1);
/// A learner has caught up when it needs no longer than this for all that was written while it caught up before: as a
/// voter it then holds nobody up for longer than an election would (Raft's dissertation, 4.2.1).
const ROUND: Duration = Duration::from_millis(300);
/// How often somebody who waits is told how far a learner is.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Before another attempt to raise the cluster's level, where one has failed.
const RAISE_PAUSE: Duration = Duration::from_secs(1);
/// A removed replica that can't be reached is told this often, and for so long, that it was removed: a short partition
/// ends meanwhile. After that it finds out at its next start.
const DISMISS_PAUSE: Duration = Duration::from_secs(2);
const DISMISS_ATTEMPTS: u32 = 150;

/// Why the membership is not changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MemberError {
    #[error("{}", not_leader(.leader.as_ref()))]
    NotLeader { leader: Option<Leader> },
    #[error("every replica needs a number of its own, 1 or more")]
    Id,
    #[error("{}", state::removed_text(*.id, *.next))]
    Removed { id: u64, next: u64 },
    #[error(
        "replica {id} is a member already, at {peer} and {endpoint}: remove it first to have it elsewhere"
    )]
    Elsewhere { id: u64, peer: String, endpoint: String },
    #[error("{url} is the address of replica {other}")]
    Address { url: String, other: u64 },
    #[error("{url} must begin with {scheme}, as this replica's own address does")]
    Url { url: String, scheme: &'static str },
    #[error("replica {id} does not answer at {url}: {why}; start it first, with an empty data folder")]
    NoAnswer { id: u64, url: String, why: String },
    #[error("replica {id} at {url} belongs to another cluster: start it with an empty data folder")]
    Foreign { id: u64, url: String },
    #[error(
        "replica {id} at {url} speaks {level} at most, and this cluster is at {cluster}: start a newer version there"
    )]
    Level {
        id: u64,
        url: String,
        level: Level,
        cluster: Level,
    },
    #[error("replica {0} is no member of this cluster")]
    Unknown(u64),
    #[error("replica {0} is the last voter: without it there is no cluster")]
    Last(u64),
    #[error(
        "without replica {id}, {reachable} of {voters} voters can be reached, which is no quorum: nothing could be \
         written any more. Bring the others back first, or add new ones; --force removes it all the same"
    )]
    NoQuorum {
        id: u64,
        voters: usize,
        reachable: usize,
    },
    #[error("no other voter can be reached that could lead")]
    NoSuccessor,
    #[error("replica {0} has no vote, and can't lead: promote it first")]
    NoVote(u64),
    #[error("replica {0} can't be reached by the leader")]
    Unreachable(u64),
    #[error("replica {0} has not taken over in time; another one may lead")]
    NotTaken(u64),
    #[error("{0}")]
    Number(ProposeError),
    /// The change may take effect yet.
    #[error("the change is not committed within {CHANGE_TIMEOUT:?}; ask for it again")]
    Undecided,
    #[error("the change is refused: {0}")]
    Refused(String),
    #[error("this replica has stopped")]
    Stopped,
}

fn not_leader(leader: Option<&Leader>) -> String {
    match leader {
        Some(leader) => format!("replica {} at {} leads", leader.id, leader.endpoint),
        None => "no leader is known at present".to_owned(),
    }
}

/// Where somebody is told how a change goes on; full: he is told the next time.
pub type CatchingUp = mpsc::Sender<wire::ReplicaProgress>;

/// Changes the membership. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Members {
    id: u64,
    own: Member,
    raft: Raft,
    links: Links,
    replicated: Arc<Replicated>,
    proposals: Proposals,
    levels: Levels,
    /// One change at a time.
    changing: Arc<Mutex<()>>,
}

impl Members {
    pub(super) fn new(
        id: u64,
        own: Member,
        raft: Raft,
        links: Links,
        replicated: Arc<Replicated>,
        proposals: Proposals,
        levels: Levels,
    ) -> Self {
        Self {
            id,
            own,
            raft,
            links,
            replicated,
            proposals,
            levels,
            changing: Arc::default(),
        }
    }

    /// Makes a running replica a learner, unless it is a member already.
    pub(super) async fn add(&self, id: u64, member: Member) -> Result<(), MemberError> {
        let _changing = self.changing.lock().await;
        let members = self.members()?;
        if id == 0 {
            return Err(MemberError::Id);
        }
        let next = self.next_free(&members);
        let known = self.replicated.read().replica_number(id).cloned();
        if known.as_ref().is_some_and(|known| known.removed) {
            return Err(MemberError::Removed { id, next });
        }
        if let Some(there) = members.get(&id) {
            if *there == member {
                return Ok(());
            }
            let (peer, endpoint) = (there.peer_endpoint.clone(), there.endpoint.clone());
            return Err(MemberError::Elsewhere { id, peer, endpoint });
        }
        self.check_addresses(&member, &members)?;
        self.probe(id, &member).await?;
        if known.is_none() {
            self.claim(id, &members).await?;
        }
        self.change(|| self.raft.add_learner(id, member.clone(), false))
            .await?;
        tracing::info!(replica = id, "a replica was taken in, and catches up");
        Ok(())
    }

    /// Waits until a learner has caught up, and makes it a voter unless it is to stay one. Ends when nobody listens.
    pub(super) async fn promote(
        &self,
        id: u64,
        learner: bool,
        progress: &CatchingUp,
    ) -> Result<(), MemberError> {
        let caught_up = tokio::select! {
            caught_up = self.catch_up(id, progress) => caught_up?,
            () = progress.closed() => return Ok(()),
        };
        progress.send(caught_up).await.ok();
        if !learner {
            let _changing = self.changing.lock().await;
            if !self.voters()?.contains(&id) {
                let add = || {
                    let add = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
                    self.raft.change_membership(add, true)
                };
                self.change(add).await?;
                tracing::info!(replica = id, "a replica has a vote from now on");
            }
            let voter = wire::ReplicaProgress {
                stage: Stage::Voter.into(),
                ..caught_up
            };
            progress.send(voter).await.ok();
        }
        Ok(())
    }

    /// Takes a replica out, for good, and tells it.
    pub(super) async fn remove(&self, id: u64, force: bool) -> Result<(), MemberError> {
        let changing = self.changing.lock().await;
        let members = self.members()?;
        let Some(member) = members.get(&id).cloned() else {
            let known = self.replicated.read().replica_number(id).cloned();
            // Asked again.
            return if known.is_some_and(|known| known.removed) {
                Ok(())
            } else {
                Err(MemberError::Unknown(id))
            };
        };
        let voters = self.voters()?;
        if voters.contains(&id) {
            self.check_rest(id, &voters, force).await?;
            if id == self.id {
                drop(changing);
                // The next leader removes this one: whoever asks is led there.
                let leader = self.hand_over(None).await?;
                return Err(MemberError::NotLeader { leader: Some(leader) });
            }
        }
        // First: a number must not come back, whatever happens between the two.
        self.command(Op::RetireReplica(wire::RetireReplica { id }))
            .await?;
        let out = BTreeSet::from([id]);
        self.change(|| {
            let change = if voters.contains(&id) {
                ChangeMembers::RemoveVoters(out.clone())
            } else {
                ChangeMembers::RemoveNodes(out.clone())
            };
            self.raft.change_membership(change, false)
        })
        .await?;
        tracing::info!(replica = id, "a replica was removed");
        tokio::spawn(self.clone().dismiss(id, member));
        Ok(())
    }

    /// Raises the cluster's level whenever all members can apply more, until it is as far as this replica speaks itself.
    /// Ends when consensus does.
    pub(super) async fn raise_level(self) {
        let (mut metrics, mut heard) = (self.raft.metrics(), self.levels.heard());
        while self.replicated.read().level() < self.levels.own() {
            match self.raise_once().await {
                Ok(()) | Err(MemberError::NotLeader { .. }) => {}
                Err(MemberError::Stopped) => return,
                Err(error) => {
                    tracing::warn!("the cluster's format level is not raised: {error}");
                    tokio::time::sleep(RAISE_PAUSE).await;
                }
            }
            let changed = tokio::select! {
                changed = metrics.changed() => changed.is_ok(),
                heard = heard.changed() => heard.is_ok(),
            };
            if !changed {
                return;
            }
        }
    }

    /// No member comes in meanwhile.
    async fn raise_once(&self) -> Result<(), MemberError> {
        if self.levels.raised(&self.raft, &self.replicated).is_none() {
            return Ok(());
        }
        let _changing = self.changing.lock().await;
        let Some(level) = self.levels.raised(&self.raft, &self.replicated) else {
            return Ok(());
        };
        self.command(Op::RaiseLevel(wire::RaiseLevel { level: level.0 }))
            .await?;
        tracing::info!("all replicas speak {level}: what it brings can be used from now on");
        Ok(())
    }

    /// Lets `to` lead, or whoever is best prepared; returns when another one leads, and that one.
    pub(super) async fn transfer(&self, to: u64) -> Result<Leader, MemberError> {
        let members = self.members()?;
        if to == self.id {
            return Ok(Leader {
                id: self.id,
                endpoint: self.own.endpoint.clone(),
            });
        }
        if to == 0 {
            return self.hand_over(None).await;
        }
        if !members.contains_key(&to) {
            return Err(MemberError::Unknown(to));
        }
        if !self.voters()?.contains(&to) {
            return Err(MemberError::NoVote(to));
        }
        if !self.reachable().contains(&to) {
            return Err(MemberError::Unreachable(to));
        }
        self.hand_over(Some(to)).await
    }

    /// The followers that could lead, best prepared first.
    pub(super) fn successors(&self) -> Result<Vec<u64>, MemberError> {
        check_leads(&self.raft.metrics().borrow_watched())?;
        let cluster = describe::cluster(self.id, &self.raft, &self.replicated, &self.levels);
        let others = cluster.replicas.into_iter().filter(|r| r.id != self.id);
        let mut ready: Vec<wire::Replica> = others.filter(|r| r.voter && r.reachable).collect();
        ready.sort_by_key(|r| std::cmp::Reverse(r.matched_index));
        Ok(ready.iter().map(|r| r.id).collect())
    }

    /// Where a member is, as this replica knows it.
    pub(super) fn member(&self, id: u64) -> Option<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).cloned()
    }

    async fn hand_over(&self, to: Option<u64>) -> Result<Leader, MemberError> {
        let to = match to {
            Some(to) => to,
            None => *self.successors()?.first().ok_or(MemberError::NoSuccessor)?,
        };
        let transferred = self.raft.trigger().transfer_leader(to).await;
        transferred.map_err(|_| MemberError::Stopped)?;
        let mut metrics = self.raft.metrics();
        let elsewhere = async {
            loop {
                if let Some(leader) = other_leader(&metrics.borrow_and_update(), self.id) {
                    return Ok(leader);
                }
                metrics.changed().await.map_err(|_| MemberError::Stopped)?;
            }
        };
        match tokio::time::timeout(super::replica::HANDOVER_TIMEOUT, elsewhere).await {
            Ok(leader) => leader,
            Err(_) => Err(MemberError::NotTaken(to)),
        }
    }

    /// All members, where this replica leads.
    fn members(&self) -> Result<BTreeMap<u64, Member>, MemberError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        check_leads(&metrics)?;
        let membership = metrics.membership_config.membership();
        Ok(membership
            .nodes()
            .map(|(id, member)| (*id, member.clone()))
            .collect())
    }

    fn voters(&self) -> Result<BTreeSet<u64>, MemberError> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        check_leads(&metrics)?;
        Ok(metrics.membership_config.membership().voter_ids().collect())
    }

    fn reachable(&self) -> BTreeSet<u64> {
        let cluster = describe::cluster(self.id, &self.raft, &self.replicated, &self.levels);
        let reachable = cluster.replicas.iter().filter(|replica| replica.reachable);
        reachable.map(|replica| replica.id).collect()
    }

    fn next_free(&self, members: &BTreeMap<u64, Member>) -> u64 {
        let highest = members.last_key_value().map_or(0, |(id, _)| *id);
        self.replicated.read().next_replica(highest)
    }

    /// The next number that is free, of a replica that is to join.
    pub(super) fn next_number(&self) -> Result<u64, MemberError> {
        Ok(self.next_free(&self.members()?))
    }

    /// Gives a number to whoever `by` stands for.
    pub(super) async fn give(&self, id: u64, by: String, again: bool) -> Result<(), MemberError> {
        let highest = self.members()?.last_key_value().map_or(0, |(id, _)| *id);
        self.command(Op::ClaimReplica(wire::ClaimReplica {
            id,
            by,
            again,
            highest_member: highest,
        }))
        .await
    }

    /// For a member that brought its own certificate.
    async fn claim(&self, id: u64, members: &BTreeMap<u64, Member>) -> Result<(), MemberError> {
        let highest = members.last_key_value().map_or(0, |(id, _)| *id);
        self.command(Op::ClaimReplica(wire::ClaimReplica {
            id,
            by: "cluster add".to_owned(),
            again: false,
            highest_member: highest,
        }))
        .await
    }

    async fn command(&self, op: Op) -> Result<(), MemberError> {
        let command = wire::Command {
            request_id: String::new(),
            op: Some(op),
        };
        match self.proposals.propose(command).await {
            Ok(_) => Ok(()),
            Err(ProposeError::NotLeader { leader }) => Err(MemberError::NotLeader { leader }),
            Err(ProposeError::Stopped) => Err(MemberError::Stopped),
            Err(error) => Err(MemberError::Number(error)),
        }
    }

    fn check_addresses(&self, member: &Member, members: &BTreeMap<u64, Member>) -> Result<(), MemberError> {
        let scheme = if self.own.endpoint.starts_with("https://") {
            "https://"
        } else {
            "http://"
        };
        for url in [&member.peer_endpoint, &member.endpoint] {
            if url.strip_prefix(scheme).is_none_or(str::is_empty) {
                let url = url.clone();
                return Err(MemberError::Url { url, scheme });
            }
            let taken = members
                .iter()
                .find(|(_, other)| [&other.peer_endpoint, &other.endpoint].contains(&url));
            if let Some((&other, _)) = taken {
                let url = url.clone();
                return Err(MemberError::Address { url, other });
            }
        }
        Ok(())
    }

    /// Whether the replica runs, is the one that is meant, and belongs to no other cluster: an address that is wrong is
    /// told now, and not found out from a learner that never answers.
    async fn probe(&self, id: u64, member: &Member) -> Result<(), MemberError> {
        let no_answer = |why: String| MemberError::NoAnswer {
            id,
            url: member.peer_endpoint.clone(),
            why,
        };
        let peer = self.links.peer(id, member, Lane::Pulse);
        let mut peer = peer.map_err(|e| no_answer(e.to_string()))?;
        let asked = peer.describe_cluster(wire::ClusterRequest::default());
        let cluster = match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
            Ok(Ok(cluster)) => cluster.into_inner(),
            Ok(Err(status)) => return Err(no_answer(identity::join::text(&status))),
            Err(_) => return Err(no_answer(format!("nothing was heard for {PROBE_TIMEOUT:?}"))),
        };
        let level = Level(cluster.software.as_ref().map_or(0, |software| software.level));
        let needed = self.replicated.read().level();
        if level < needed {
            return Err(MemberError::Level {
                id,
                url: member.peer_endpoint.clone(),
                level,
                cluster: needed,
            });
        }
        let ours = |replica: &wire::Replica| {
            replica.id == self.id && replica.peer_endpoint == self.own.peer_endpoint
        };
        // Learners of ours that were asked for again know us.
        if cluster.replicas.is_empty() || cluster.replicas.iter().any(ours) {
            return Ok(());
        }
        Err(MemberError::Foreign {
            id,
            url: member.peer_endpoint.clone(),
        })
    }

    /// Whether those that are left could go on. A leader that was just elected hears of them within a heartbeat.
    async fn check_rest(&self, id: u64, voters: &BTreeSet<u64>, force: bool) -> Result<(), MemberError> {
        let rest: BTreeSet<u64> = voters.iter().copied().filter(|other| *other != id).collect();
        if rest.is_empty() {
            return Err(MemberError::Last(id));
        }
        let heard = || rest.intersection(&self.reachable()).count();
        let enough = rest.len() / 2 + 1;
        let mut metrics = self.raft.metrics();
        let hearing = async {
            while heard() < enough {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        if force || tokio::time::timeout(HEARING, hearing).await.is_ok() {
            return Ok(());
        }
        Err(MemberError::NoQuorum {
            id,
            voters: rest.len(),
            reachable: heard(),
        })
    }

    /// Rounds, each up to where the log ended at its begin, until one is short.
    async fn catch_up(&self, id: u64, progress: &CatchingUp) -> Result<wire::ReplicaProgress, MemberError> {
        let mut metrics = self.raft.metrics();
        loop {
            let begun = clock::instant();
            let goal = metrics.borrow_watched().last_log_index;
            let at = loop {
                let (at, matched) = learning(&metrics.borrow_and_update(), id)?;
                if matched >= goal {
                    break at;
                }
                progress.try_send(at).ok();
                // What changes most is how far others are: who waits is not told each time.
                let quiet = tokio::time::sleep(TELL_EVERY);
                let reached = async {
                    loop {
                        metrics.changed().await.map_err(|_| MemberError::Stopped)?;
                        let (_, matched) = learning(&metrics.borrow_watched(), id)?;
                        if matched >= goal {
                            return Ok(());
                        }
                    }
                };
                tokio::select! {
                    reached = reached => reached?,
                    () = quiet => {}
                }
            };
            if begun.elapsed() <= ROUND {
                return Ok(wire::ReplicaProgress {
                    stage: Stage::CaughtUp.into(),
                    ..at
                });
            }
        }
    }

    /// Makes one change, again while the one before is not committed.
    async fn change<F, Fut>(&self, make: F) -> Result<(), MemberError>
    where
        F: Fn() -> Fut,
        Fut: Future<
            Output = Result<
                ClientWriteResponse<TypeConfig>,
                RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
            >,
        >,
    {
        let changing = async {
            loop {
                match make().await {
                    Ok(_) => return Ok(()),
                    Err(RaftError::Fatal(_)) => return Err(MemberError::Stopped),
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                        return Err(MemberError::NotLeader {
                            leader: super::propose::leader(to),
                        });
                    }
                    Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                        return Err(MemberError::Undecided);
                    }
                    Err(RaftError::APIError(ClientWriteError::PreconditionFailed(e))) => {
                        return Err(MemberError::Refused(e.to_string()));
                    }
                    Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e))) => match e {
                        ChangeMembershipError::InProgress(_)
                        | ChangeMembershipError::UncommittedLeaderLog(_) => {
                            tokio::time::sleep(CHANGE_PAUSE).await;
                        }
                        refused @ (ChangeMembershipError::EmptyMembership(_)
                        | ChangeMembershipError::LearnerNotFound(_)
                        | ChangeMembershipError::UnsupportedMembershipTransition(_)
                        | ChangeMembershipError::NodeMetadataChanged(_)) => {
                            return Err(MemberError::Refused(refused.to_string()));
                        }
                    },
                }
            }
        };
        match tokio::time::timeout(CHANGE_TIMEOUT, changing).await {
            Ok(changed) => changed,
            Err(_) => Err(MemberError::Undecided),
        }
    }

    /// Tells a replica that it was removed. It knows nothing of it by itself: the entry that removes it is the first one
    /// that it is not sent.
    async fn dismiss(self, id: u64, member: Member) {
        for _ in 0..DISMISS_ATTEMPTS {
            let Ok(mut peer) = self.links.peer(id, &member, Lane::Pulse) else {
                return;
            };
            let told = peer.dismiss(wire::DismissRequest { leader_id: self.id });
            match tokio::time::timeout(PROBE_TIMEOUT, told).await {
                Ok(Ok(_)) => return,
                Ok(Err(status)) => {
                    tracing::debug!(replica = id, why = status.message(), "not yet dismissed");
                }
                Err(_) => tracing::debug!(replica = id, "not yet dismissed"),
            }
            tokio::time::sleep(DISMISS_PAUSE).await;
        }
    }
}

/// Where users and agents reach the members, now and from now on. Ends when consensus has ended.
pub(super) fn watch_endpoints(raft: &Raft) -> watch::Receiver<Vec<String>> {
    fn endpoints(metrics: &RaftMetrics<TypeConfig>) -> Vec<String> {
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(_, member)| member.endpoint.clone()).collect()
    }
    let mut metrics = raft.metrics();
    let (told, watched) = watch::channel(endpoints(&metrics.borrow_watched()));
    tokio::spawn(async move {
        let mut last = None;
        while metrics.changed().await.is_ok() {
            let now = metrics.borrow_and_update();
            // Metrics change with every entry, the membership hardly ever.
            if last == Some(*now.membership_config.log_id()) {
                continue;
            }
            last = Some(*now.membership_config.log_id());
            let now = endpoints(&now);
            told.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    });
    watched
}

fn check_leads(metrics: &RaftMetrics<TypeConfig>) -> Result<(), MemberError> {
    if metrics.running_state.is_err() {
        return Err(MemberError::Stopped);
    }
    if metrics.state == ServerState::Leader {
        return Ok(());
    }
    let leader = other_leader(metrics, metrics.id);
    Err(MemberError::NotLeader { leader })
}

fn other_leader(metrics: &RaftMetrics<TypeConfig>, own: u64) -> Option<Leader> {
    let id = metrics.current_leader.filter(|id| *id != own)?;
    let endpoint = metrics
        .membership_config
        .membership()
        .get_node(&id)?
        .endpoint
        .clone();
    Some(Leader { id, endpoint })
}

/// How far a member is, for those who wait, and by its index.
fn learning(
    metrics: &RaftMetrics<TypeConfig>,
    id: u64,
) -> Result<(wire::ReplicaProgress, Option<u64>), MemberError> {
    check_leads(metrics)?;
    if metrics.membership_config.membership().get_node(&id).is_none() {
        return Err(MemberError::Unknown(id));
    }
    let matched = if id == metrics.id {
        metrics.last_log_index
    } else {
        let progress = metrics.replication.as_ref().and_then(|all| all.get(&id));
        progress.copied().flatten().map(|matched| matched.index)
    };
    let progress = wire::ReplicaProgress {
        stage: Stage::Learning.into(),
        matched_index: matched.unwrap_or(0),
        last_index: metrics.last_log_index.unwrap_or(0),
        reachable: id == metrics.id || describe::answers(metrics, id),
    };
    Ok((progress, matched))
}

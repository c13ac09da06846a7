//! This replica: its stores, its part in consensus, its peer listener; started and stopped as one.
//!
//! Owns the order of starting and stopping, and is the only thing that the rest of the control plane knows of
//! `raft`. Called by `main`; `api`, `session` and `controller` propose and read through clones.

use super::checks::{self, CHECK_TIMEOUT, Checks, Summed};
use super::compaction;
use super::dismissal::Dismissal;
use super::formation::{self, InitError};
use super::hearing::Hearing;
use super::identity::{self, IdentityError};
use super::instruments::Instruments;
use super::leadership::{self, Leader, Leadership};
use super::levels::Levels;
use super::link::{Lane, Links};
use super::log_store::LogStore;
use super::members::{self, CatchingUp, MemberError, Members};
use super::network::Network;
use super::peer::{self, PeerService};
use super::propose::{Gate, Proposals, ProposeError};
use super::read::{ReadError, Reads};
use super::relief::Relief;
use super::replicated::Replicated;
use super::snapshot::SnapshotFiles;
use super::space::Space;
use super::state_store::StateStore;
use super::succession::Succession;
use super::types::{Member, TypeConfig};
use super::{StoreError, describe, tuning};
use crate::config::Config;
use crate::security::Security;
use crate::state::Digest;
use futures::stream::{FuturesUnordered, Stream};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use proto::wire::{self, command::Op};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Consensus over our log and state.
pub(super) type Raft = openraft::Raft<TypeConfig, StateStore>;

/// For another replica to take over at shutdown: an election at once, some round trips. Past it the cluster
/// elects by itself.
pub(super) const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);
/// For the log's disk to take what is under way: one sync.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// For calls of other replicas that are being answered at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);
/// For the leader's word on the cluster; past it this replica tells what it knows itself.
const DESCRIBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot serve the other replicas on {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the settings of consensus: {0}")]
    Tuning(#[from] openraft::ConfigError),
    #[error("consensus does not start: {0}")]
    Raft(#[from] Fatal<TypeConfig>),
}

/// Indexes of the log; 0: none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub last_log: u64,
    /// Of the last entry that the newest snapshot covers.
    pub snapshot: u64,
}

/// Why there is no copy of the state.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the disk has not taken within {SETTLE_TIMEOUT:?} what was applied last")]
    Slow,
    #[error("this replica has stopped")]
    Stopped,
}

/// One replica of the control plane. Clones share it.
#[derive(Debug, Clone)]
pub struct Replica(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: u64,
    own: Member,
    raft: Raft,
    links: Links,
    members: Members,
    relief: Relief,
    dismissal: Dismissal,
    levels: Levels,
    checks: Checks,
    replicated: Arc<Replicated>,
    proposals: Proposals,
    reads: Reads,
    leadership: watch::Receiver<Leadership>,
    endpoints: watch::Receiver<Vec<String>>,
    server: Mutex<Option<Server>>,
    #[cfg(test)]
    growth: compaction::Growth,
}

/// The peer listener's task.
#[derive(Debug)]
struct Server {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Replica {
    /// Opens the stores, serves the other replicas and takes part in consensus. At the very first start it forms
    /// the cluster that the configuration lists, if it lists one.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(config: &Config, security: &Security) -> Result<Self, StartError> {
        // The folder's owner first: a second process of this replica, or another's folder, touches nothing.
        identity::claim(&config.data_dir, config.id)?;
        let address = config.peer_listen;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| StartError::Bind { address, source })?;
        Self::start_on(config, security, listener).await
    }

    /// As [`Replica::start`], with other replicas served on a listener that is bound already.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start_on(
        config: &Config,
        security: &Security,
        listener: TcpListener,
    ) -> Result<Self, StartError> {
        let id = config.id;
        identity::claim(&config.data_dir, id)?;
        let tuning = Arc::new(tuning::config()?);
        let space = Space::open(id, &config.data_dir, config.min_free_disk);
        let levels = Levels::new(id, config.level);
        let (dir, level) = (config.data_dir.clone(), config.level);
        let opening = move || {
            let log = LogStore::open(&dir)?;
            let state = StateStore::open(&dir, log.progress(), level)?;
            Ok::<_, StoreError>((log, state))
        };
        let (log, state) = match tokio::task::spawn_blocking(opening).await {
            Ok(opened) => opened?,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        };
        let instruments = Instruments::new(log.sync_times());
        let (replicated, inbox, checks) = (state.replicated(), state.inbox(), state.checks());
        let growth = log.growth();
        let links = Links::new(security.dialer());
        let raft = Raft::new(
            id,
            tuning,
            Network::new(links.clone(), levels.clone()),
            log,
            state,
        )
        .await?;
        let compacting = compaction::run(raft.clone(), growth.clone(), compaction::Bounds::DEFAULT);
        tokio::spawn(compacting);
        let hearing = Hearing::default();
        let leadership = leadership::watch(&raft, hearing.clone());
        let dismissal = Dismissal::of(&config.data_dir, hearing.clone());
        tokio::spawn(dismissal.clone().find_out(id, raft.clone(), links.clone()));
        let service = PeerService {
            id,
            raft: raft.clone(),
            inbox,
            succession: Succession::start(id, raft.clone()),
            replicated: replicated.clone(),
            dismissal: dismissal.clone(),
            hearing,
            space: space.clone(),
            levels: levels.clone(),
            checks: checks.clone(),
            stopping: CancellationToken::new(),
        };
        let own = Member {
            peer_endpoint: config.advertise_peer.clone(),
            endpoint: config.advertise.clone(),
        };
        let gate = Gate {
            raft: raft.clone(),
            replicated: replicated.clone(),
            levels: levels.clone(),
            space,
        };
        let proposals = Proposals::start(gate, instruments);
        let changes = Members::new(
            id,
            own.clone(),
            raft.clone(),
            links.clone(),
            replicated.clone(),
            proposals.clone(),
            levels.clone(),
        );
        tokio::spawn(changes.clone().raise_level());
        let replica = Self(Arc::new(Inner {
            id,
            own,
            relief: Relief::new(changes.clone(), links.clone()),
            members: changes,
            dismissal,
            levels,
            checks,
            proposals,
            reads: Reads::start(
                id,
                raft.clone(),
                links.clone(),
                replicated.clone(),
                leadership.clone(),
            ),
            leadership,
            endpoints: members::watch_endpoints(&raft),
            #[cfg(test)]
            growth,
            server: Mutex::new(Some(Server::start(listener, security.clone(), service))),
            raft,
            links,
            replicated,
        }));
        if !config.initial_cluster.is_empty() && !replica.0.raft.is_initialized().await? {
            let members = formation::configured(&config.initial_cluster);
            tokio::spawn(formation::form_in_turn(id, replica.0.raft.clone(), members));
        }
        Ok(replica)
    }

    /// Proposes a command; returns when a quorum has it on stable storage and it has been applied here, in bounded
    /// time. A command with a request id that was answered before gets the first answer again.
    ///
    /// # Errors
    /// [`ProposeError`] says for each case whether the command may have taken effect.
    pub async fn propose(&self, command: wire::Command) -> Result<wire::Accepted, ProposeError> {
        let mut answer = self.0.proposals.propose(command).await;
        if let Err(ProposeError::NearlyFull(_)) = &answer
            && let Some(leader) = self.0.relief.find().await
        {
            let leader = Some(leader);
            return Err(ProposeError::NotLeader { leader });
        }
        // Consensus names whom it has voted for, also where that one is silent.
        if let Err(ProposeError::NotLeader { leader }) = &mut answer
            && self.0.leadership.borrow().leader.is_none()
        {
            *leader = None;
        }
        answer
    }

    /// Returns once [`Replica::replicated`] shows all that was acknowledged before the call, on any replica; the
    /// index that it shows at least.
    ///
    /// # Errors
    /// [`ReadError`], in bounded time.
    pub async fn linearize(&self) -> Result<u64, ReadError> {
        self.0.reads.linearize().await
    }

    /// The state as this replica has applied it, up to date or not.
    #[must_use]
    pub fn replicated(&self) -> &Arc<Replicated> {
        &self.0.replicated
    }

    /// Who leads, now and from now on.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Where users and agents reach the members, now and from now on.
    #[must_use]
    pub fn endpoints(&self) -> watch::Receiver<Vec<String>> {
        self.0.endpoints.clone()
    }

    /// Whether this replica leads in `term` as of this moment. [`Replica::leadership`] is told of a lost quorum a
    /// little later, and much later where this process was stopped meanwhile: what must not outlive the quorum, such
    /// as a lease that is granted, asks here.
    #[must_use]
    pub fn leads(&self, term: u64) -> bool {
        let now = Leadership::of(&self.0.raft.metrics().borrow_watched());
        now.is_self && now.term == term
    }

    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// What is measured here.
    #[must_use]
    pub fn instruments(&self) -> &Instruments {
        self.0.proposals.instruments()
    }

    /// Commands that wait for their way into the log.
    #[must_use]
    pub fn waiting_proposals(&self) -> usize {
        self.0.proposals.waiting()
    }

    /// How far the log and its snapshots go on this replica.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        Progress {
            last_log: metrics.last_log_index.unwrap_or(0),
            snapshot: metrics.snapshot.map_or(0, |id| id.index),
        }
    }

    /// The cluster as this replica knows it. How far others are, and whether they answer, only the leader knows.
    #[must_use]
    pub fn cluster(&self) -> wire::ClusterResponse {
        describe::cluster(self.0.id, &self.0.raft, &self.0.replicated, &self.0.levels)
    }

    /// Lets each member sum its whole state at one entry of the log: by number, the sum or why there is none, as they
    /// come. Asked again with the same request id, it is the same check. Leader only.
    ///
    /// # Errors
    /// [`ProposeError`]
    pub async fn check_state(
        &self,
        request_id: String,
    ) -> Result<impl Stream<Item = (u64, Result<Summed, String>)> + Send + use<>, ProposeError> {
        let command = wire::Command {
            request_id: request_id.clone(),
            op: Some(Op::CheckState(wire::CheckState {})),
        };
        self.propose(command).await?;
        let metrics = self.0.raft.metrics();
        let members = metrics.borrow_watched().membership_config.membership().clone();
        let asking = members.nodes().map(|(&id, member)| {
            let (replica, member, request_id) = (self.clone(), member.clone(), request_id.clone());
            async move { (id, replica.summed(id, &member, request_id).await) }
        });
        Ok(asking.collect::<FuturesUnordered<_>>())
    }

    async fn summed(&self, id: u64, member: &Member, request_id: String) -> Result<Summed, String> {
        if id == self.0.id {
            let summed = self.0.checks.summed(&request_id).await;
            return summed.ok_or_else(|| checks::NOT_SUMMED.to_owned());
        }
        let peer = self.0.links.peer(id, member, Lane::Pulse);
        let mut peer = peer.map_err(|error| error.to_string())?;
        let asked = peer.state_sum(wire::StateSumRequest { request_id });
        let answer = match tokio::time::timeout(CHECK_TIMEOUT, asked).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(::identity::join::text(&status)),
            Err(_) => return Err(format!("nothing was heard of it for {CHECK_TIMEOUT:?}")),
        };
        let digest = answer.sum.try_into();
        let digest = digest.map_err(|_| "its answer is not understood".to_owned())?;
        Ok(Summed {
            index: answer.index,
            digest: Digest(digest),
        })
    }

    /// The cluster as the leader knows it; as this replica does where no leader answers in time.
    pub async fn describe_cluster(&self) -> wire::ClusterResponse {
        match tokio::time::timeout(DESCRIBE_TIMEOUT, self.described_by_leader()).await {
            Ok(Some(described)) => described,
            Ok(None) | Err(_) => self.cluster(),
        }
    }

    async fn described_by_leader(&self) -> Option<wire::ClusterResponse> {
        let (leader, member) = {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            let leader = metrics.current_leader.filter(|&leader| leader != self.0.id)?;
            let membership = metrics.membership_config.membership();
            (leader, membership.get_node(&leader)?.clone())
        };
        let mut peer = self.0.links.peer(leader, &member, Lane::Pulse).ok()?;
        let described = peer
            .describe_cluster(wire::ClusterRequest::default())
            .await
            .ok()?;
        Some(wire::ClusterResponse {
            answered_by: self.0.id,
            ..described.into_inner()
        })
    }

    /// Forms a cluster of `members`, this replica included. Once, on one replica of a fresh set; the others must
    /// run.
    ///
    /// # Errors
    /// [`InitError`]; nothing has changed then.
    pub async fn init(&self, members: Vec<wire::Replica>) -> Result<(), InitError> {
        let members = formation::requested(self.0.id, &self.0.own, members)?;
        formation::form(self.0.id, &self.0.raft, members).await
    }

    /// Takes a running, empty replica in as a learner; one that is a member already stays as it is. Leader only, as all
    /// that changes the membership.
    ///
    /// # Errors
    /// [`MemberError`]
    pub async fn add_member(&self, member: wire::Member) -> Result<(), MemberError> {
        let wire::Member {
            id,
            peer_endpoint,
            endpoint,
        } = member;
        let member = Member {
            peer_endpoint,
            endpoint,
        };
        self.0.members.add(id, member).await
    }

    /// Returns when a member has caught up and has a vote, or, as a `learner`, when it has caught up. Whoever waits is
    /// told how it goes on; when nobody listens any more it ends early.
    ///
    /// # Errors
    /// [`MemberError`]
    pub async fn promote_member(
        &self,
        id: u64,
        learner: bool,
        progress: &CatchingUp,
    ) -> Result<(), MemberError> {
        self.0.members.promote(id, learner, progress).await
    }

    /// Takes a member out, for good; `force`: also where the others have no quorum at present. One that is out is
    /// removed already.
    ///
    /// # Errors
    /// [`MemberError`]; this replica, where it leads itself, hands over first and names the next leader.
    pub async fn remove_member(&self, id: u64, force: bool) -> Result<(), MemberError> {
        self.0.members.remove(id, force).await
    }

    /// Lets `to` lead, or whoever is best prepared where it is 0. Returns when somebody else does, and who.
    ///
    /// # Errors
    /// [`MemberError`]
    pub async fn transfer_leadership(&self, to: u64) -> Result<Leader, MemberError> {
        self.0.members.transfer(to).await
    }

    /// The next number that no replica has or had.
    ///
    /// # Errors
    /// [`MemberError::NotLeader`]
    pub fn next_number(&self) -> Result<u64, MemberError> {
        self.0.members.next_number()
    }

    /// Gives a number to a replica that is to join; `by` is the token or the request that it is for. Given to the same
    /// again, nothing changes; `again`: also where it was given to another.
    ///
    /// # Errors
    /// [`MemberError`], also where the number was removed.
    pub async fn give_number(&self, id: u64, by: String, again: bool) -> Result<(), MemberError> {
        self.0.members.give(id, by, again).await
    }

    /// All that this replica has applied, as files that go with their last clone.
    ///
    /// # Errors
    /// [`CaptureError`]
    pub async fn capture(&self) -> Result<SnapshotFiles, CaptureError> {
        let settling = self.0.raft.with_state_machine(|store| Box::pin(store.settle()));
        let settled = tokio::time::timeout(SETTLE_TIMEOUT, settling).await;
        let stored = settled
            .map_err(|_| CaptureError::Slow)?
            .map_err(|_| CaptureError::Stopped)??;
        match tokio::task::spawn_blocking(move || stored.capture()).await {
            Ok(captured) => Ok(captured?),
            Err(_) => Err(CaptureError::Stopped),
        }
    }

    /// Whether this replica has a vote, as far as it knows.
    #[must_use]
    pub fn is_voter(&self) -> bool {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.membership().voter_ids();
        voters.any(|voter| voter == self.0.id)
    }

    /// Returns once this replica was removed from its cluster: it must not go on, nor start again.
    pub async fn dismissed(&self) {
        self.0.dismissal.dismissed().await;
    }

    /// Returns when this replica takes no part any more, with the reason: it was shut down, or its storage has
    /// failed. It never recovers by itself.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.0.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return Fatal::<TypeConfig>::Stopped.to_string();
            }
        }
    }

    /// Hands leadership over where it has it, then stops taking part and serving. What is proposed or read from now
    /// on is answered with an error.
    pub async fn shutdown(&self) {
        match self.0.members.transfer(0).await {
            Ok(to) => tracing::info!(to = to.id, "another replica leads"),
            // It did not lead, or nobody could.
            Err(MemberError::NotLeader { .. } | MemberError::NoSuccessor) => {}
            Err(error) => tracing::warn!("leadership is not handed over, another leader is elected: {error}"),
        }
        self.stop().await;
    }

    /// Stops at once, as a crash would, but for what the operating system cleans up.
    pub(super) async fn stop(&self) {
        let server = self
            .0
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(server) = server {
            server.stop().await;
        }
        if let Err(e) = self.0.raft.shutdown().await {
            tracing::error!("consensus has not ended well: {e}");
        }
    }
}

impl Server {
    fn start(listener: TcpListener, security: Security, service: PeerService) -> Self {
        let stop = service.stopping.clone();
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            if let Err(e) = peer::serve(listener, security, service, stopped).await {
                tracing::error!("the listener for other replicas has failed: {e}");
            }
        });
        Self { stop, task }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        // Snapshots that arrive don't end by themselves.
        if tokio::time::timeout(DRAIN_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
            let _ = self.task.await;
        }
    }
}

#[cfg(test)]
mod tests;

//! One session, from its hello to its end. Owns what its agent has been told and what it has said that is not yet
//! in the log. Called by `Sessions::open`.

use super::crowd::{REPORT_WINDOW, Reporting};
use super::desired::{self, Standing, standing};
use super::hello::{self, Hello, checked};
use super::report::{self, Pending};
use super::table::{Outbox, Seat, Stale};
use super::{SessionError, Sessions};
use crate::access::Caller;
use crate::clock;
use crate::raft::{ProposeError, Replica};
use crate::trace;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::id::{NodeId, Uid};
use proto::object::Node;
use proto::status::NodeState;
use proto::wire::{self, agent_message, command::Op, leader_message};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Streaming;

/// A connection that takes nothing for so long is as good as broken; its agent comes again.
const STALL: Duration = Duration::from_secs(10);
/// Keeps an entry far below the limit of a log entry: a report is about 300 bytes, at most some KiB.
const REPORTS_PER_COMMAND: usize = 200;
/// Before reports are proposed again that could not be: about an election.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

struct Session<'a> {
    sessions: &'a Sessions,
    seat: Seat,
    node: NodeId,
    term: u64,
    /// What the agent has, or has been told to have, and has not said to be gone.
    known: BTreeSet<Uid>,
    pending: Pending,
    /// Messages with reports that the agent has not seen acknowledged.
    unacknowledged: u32,
}

/// Serves an agent until one of both has had enough; tells it why.
pub(super) async fn run(
    sessions: Sessions,
    term: u64,
    caller: Caller,
    messages: Streaming<wire::AgentMessage>,
    outbox: Outbox,
) {
    let ended = tokio::select! {
        biased;
        ended = sessions.unseated(term) => ended,
        ended = serve(&sessions, term, &caller, messages, outbox.clone()) => ended,
    };
    tracing::debug!(reason = %ended, "session ended");
    // Nobody may be there to read it.
    timeout(STALL, outbox.send(Err(ended))).await.ok();
}

async fn serve(
    sessions: &Sessions,
    term: u64,
    caller: &Caller,
    mut messages: Streaming<wire::AgentMessage>,
    outbox: Outbox,
) -> SessionError {
    let hello = match hello::first(&mut messages).await {
        Ok(hello) => hello,
        Err(error) => return error,
    };
    let node = hello.node.clone();
    if !caller.is_agent_of(&node) {
        let who = caller.who.to_string();
        tracing::warn!(who, %node, "somebody speaks for a node that is not his");
        return SessionError::Foreign { who, node };
    }
    tracing::info!(%node, sandboxes = hello.inventory.len(), "agent has come");
    let session = Session {
        seat: sessions.table.open(&node, outbox),
        sessions,
        node,
        term,
        known: hello.inventory.iter().map(|report| Uid(report.uid)).collect(),
        pending: Pending::default(),
        unacknowledged: 0,
    };
    let entry = session.seat.entry().clone();
    let node = session.node.clone();
    tokio::select! {
        () = entry.ended() => SessionError::Superseded(node),
        ended = session.converse(hello, messages) => match ended {
            Err(error) => error,
            Ok(never) => match never {},
        },
    }
}

impl Session<'_> {
    /// Until something ends it.
    async fn converse(
        mut self,
        hello: Hello,
        mut messages: Streaming<wire::AgentMessage>,
    ) -> Result<std::convert::Infallible, SessionError> {
        // Before it is Ready, or it would be taken for silent since this leader began.
        self.sessions.liveness.heard(&self.node);
        self.register(&hello).await?;
        self.take_stock(hello.inventory).await?;
        let mut endpoints = self.sessions.replica.endpoints();
        endpoints.mark_unchanged();
        self.welcome().await?;
        let all = Stale {
            full: true,
            ..Stale::default()
        };
        self.tell(all).await?;

        let entry = self.seat.entry().clone();
        let mut proposing = FuturesUnordered::new();
        loop {
            if proposing.is_empty() && self.pending.is_empty() {
                self.acknowledge().await?;
            }
            if proposing.is_empty() && !self.pending.is_empty() {
                let reports = self.pending.take(REPORTS_PER_COMMAND);
                let sessions = self.sessions;
                proposing.push(offer(
                    sessions.replica.clone(),
                    sessions.reporting.clone(),
                    self.node.clone(),
                    reports,
                ));
            }
            tokio::select! {
                message = messages.message() => match message {
                    Ok(Some(message)) => self.heard(message).await?,
                    Ok(None) => return Err(SessionError::Gone("it has ended the stream".to_owned())),
                    Err(status) => return Err(SessionError::Gone(status.message().to_owned())),
                },
                () = entry.changed() => self.tell(entry.take_stale()).await?,
                () = entry.asked() => {
                    self.send(leader_message::Message::AskHeartbeat(wire::AskHeartbeat {})).await?;
                }
                // Replicas have come or gone: the agent must know them when this one is lost.
                Ok(()) = endpoints.changed() => self.welcome().await?,
                Some(left) = proposing.next() => self.pending.put_back(left),
            }
        }
    }

    /// Proposes the node where that would change anything.
    async fn register(&self, hello: &Hello) -> Result<(), SessionError> {
        let is_news = |node: &Node| {
            node.state != NodeState::Ready
                || node.reported_labels != hello.labels
                || node.report.as_ref() != Some(&hello.report)
        };
        if self
            .sessions
            .replica
            .replicated()
            .read()
            .node(&self.node)
            .is_none_or(|node| is_news(node))
        {
            let op = Op::RegisterNode(wire::RegisterNode {
                node_id: self.node.to_string(),
                labels: hello.labels.clone(),
                report: Some((&hello.report).into()),
            });
            self.propose(op).await?;
        }
        Ok(())
    }

    /// Brings the state up to what the agent has found on its node, before it is told what to do: a sandbox that it
    /// has lost must not be started a second time.
    async fn take_stock(&mut self, inventory: Vec<wire::SandboxReport>) -> Result<(), SessionError> {
        let mut news = {
            let state = self.sessions.replica.replicated().read();
            report::missing(
                state.sandboxes_on(&self.node).map(AsRef::as_ref),
                &self.node,
                &self.known,
            )
        };
        news.extend(inventory.into_iter().filter(|report| self.is_news(report)));
        for reports in news.chunks(REPORTS_PER_COMMAND) {
            self.propose(reports_of(&self.node, reports.to_vec())).await?;
        }
        Ok(())
    }

    async fn propose(&self, op: Op) -> Result<(), SessionError> {
        let command = wire::Command {
            request_id: String::new(),
            op: Some(op),
        };
        match self.sessions.replica.propose(command).await {
            Ok(_) => Ok(()),
            Err(ProposeError::NotLeader { leader }) => Err(SessionError::NotLeader { leader }),
            Err(source) => Err(SessionError::Register {
                node: self.node.clone(),
                source,
            }),
        }
    }

    /// Before anything that renews the agent's lease: a leader that a quorum has left must not, since the next one
    /// knows nothing of it and would give the node's sandboxes to another.
    fn check_lease(&self) -> Result<(), SessionError> {
        if self.sessions.replica.leads(self.term) {
            Ok(())
        } else {
            Err(SessionError::NotLeader { leader: None })
        }
    }

    async fn welcome(&self) -> Result<(), SessionError> {
        self.check_lease()?;
        let welcome = wire::Welcome {
            leader_id: self.sessions.replica.id(),
            heartbeat_ms: millis(self.sessions.timings.heartbeat),
            lease_ms: millis(self.sessions.timings.node_lease),
            endpoints: self.sessions.replica.endpoints().borrow().clone(),
            report_window: REPORT_WINDOW,
        };
        self.send(leader_message::Message::Welcome(welcome)).await
    }

    async fn heard(&mut self, message: wire::AgentMessage) -> Result<(), SessionError> {
        self.sessions.liveness.heard(&self.node);
        match message.message {
            Some(agent_message::Message::Heartbeat(heartbeat)) => {
                self.check_lease()?;
                let ack = wire::HeartbeatAck {
                    sequence: heartbeat.sequence,
                    spread_ms: millis(self.sessions.spread()),
                };
                self.send(leader_message::Message::HeartbeatAck(ack)).await
            }
            Some(agent_message::Message::Report(report)) => {
                self.unacknowledged += 1;
                let named = report
                    .sandboxes
                    .into_iter()
                    .map(|report| self.named(report))
                    .collect();
                for report in checked(&self.node, named) {
                    if report.phase() == wire::Phase::Deleting {
                        self.known.remove(&Uid(report.uid));
                    }
                    // What the state does not place here needs no word, so that there are never more reports
                    // waiting than sandboxes on the node.
                    if self.is_news(&report) {
                        tracing::debug!(
                            node = %self.node,
                            sandbox = report.sandbox_id,
                            uid = report.uid,
                            phase = report.phase().as_str_name(),
                            "an agent tells of a sandbox"
                        );
                        self.pending.put(report);
                    }
                }
                Ok(())
            }
            Some(agent_message::Message::RelayRefused(refused)) => {
                self.sessions.relays.refuse(&self.node, refused);
                Ok(())
            }
            Some(agent_message::Message::Hello(_)) => {
                tracing::warn!(node = %self.node, "a second Hello on one stream is passed over");
                Ok(())
            }
            // Of a newer version.
            None => Ok(()),
        }
    }

    /// All that was reported is in the log, or was no news: the agent may go on.
    async fn acknowledge(&mut self) -> Result<(), SessionError> {
        let reports = std::mem::take(&mut self.unacknowledged);
        if reports == 0 {
            return Ok(());
        }
        self.send(leader_message::Message::ReportAck(wire::ReportAck { reports }))
            .await
    }

    /// Of what an agent was told to remove and never had, it knows the uid alone.
    fn named(&self, mut report: wire::SandboxReport) -> wire::SandboxReport {
        if report.sandbox_id.is_empty()
            && let Some(sandbox) = self
                .sessions
                .replica
                .replicated()
                .read()
                .sandbox_by_uid(Uid(report.uid))
        {
            report.sandbox_id = sandbox.id.to_string();
        }
        report
    }

    fn is_news(&self, report: &wire::SandboxReport) -> bool {
        let state = self.sessions.replica.replicated().read();
        let sandbox = state.sandbox_by_uid(Uid(report.uid));
        sandbox.is_some_and(|sandbox| report::is_news(sandbox, &self.node, report))
    }

    /// Tells the agent what it does not know. A sandbox that is to go and was never there is reported as gone in
    /// the agent's stead, which has no name for it.
    async fn tell(&mut self, stale: Stale) -> Result<(), SessionError> {
        let (now, begun) = (clock::now(), clock::moment());
        let mut to_run = Vec::new();
        let mut desired = wire::Desired {
            full: stale.full,
            ..Default::default()
        };
        {
            let state = self.sessions.replica.replicated().read();
            desired.version = Some(wire::Version {
                term: self.term,
                index: state.index(),
            });
            let marked: Vec<Uid> = if stale.full {
                state
                    .sandboxes_on(&self.node)
                    .map(|sandbox| sandbox.uid)
                    .collect()
            } else {
                stale.sandboxes.into_iter().collect()
            };
            for uid in marked {
                let sandbox = state.sandbox_by_uid(uid);
                match (standing(&self.node, sandbox.map(AsRef::as_ref)), sandbox) {
                    (Standing::Run, Some(sandbox)) => {
                        if self.known.insert(uid) && self.sessions.exporter.is_on() {
                            to_run.push(sandbox.clone());
                        }
                        tracing::debug!(
                            node = %self.node,
                            sandbox = %sandbox.id,
                            %uid,
                            trace_id = sandbox.trace_id,
                            "telling its agent to run it"
                        );
                        desired.sandboxes.push(desired::message(sandbox, now));
                    }
                    (Standing::Keep, Some(sandbox)) => desired.sandboxes.push(desired::message(sandbox, now)),
                    (Standing::Remove, sandbox) => {
                        desired.removed_uids.push(uid.0);
                        if let Some(sandbox) = sandbox
                            && sandbox.status.node_name.as_ref() == Some(&self.node)
                            && !self.known.contains(&uid)
                        {
                            self.pending.put(report::gone(sandbox));
                        }
                    }
                    // `standing` of nothing is Remove.
                    (Standing::Run | Standing::Keep, None) => {}
                }
            }
        }
        if !desired.full && desired.sandboxes.is_empty() && desired.removed_uids.is_empty() {
            return Ok(());
        }
        self.send(leader_message::Message::Desired(desired)).await?;
        let now = clock::instant();
        let told = to_run
            .iter()
            .filter_map(|sandbox| trace::told(sandbox, begun, now));
        self.sessions.exporter.record(told);
        Ok(())
    }

    async fn send(&self, message: leader_message::Message) -> Result<(), SessionError> {
        let message = wire::LeaderMessage {
            message: Some(message),
        };
        match timeout(STALL, self.seat.entry().outbox().send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SessionError::Gone("it does not listen any more".to_owned())),
            Err(_) => Err(SessionError::Stalled(self.node.clone())),
        }
    }
}

/// Proposes reports; those that must be tried again come back, after a pause.
async fn offer(
    replica: Replica,
    reporting: Reporting,
    node: NodeId,
    reports: Vec<wire::SandboxReport>,
) -> Vec<wire::SandboxReport> {
    let command = wire::Command {
        request_id: String::new(),
        op: Some(reports_of(&node, reports.clone())),
    };
    let turn = reporting.turn(reports.len()).await;
    let answered = replica.propose(command).await;
    drop(turn);
    match answered {
        Ok(_) => Vec::new(),
        // Decided: what they were about is no longer so.
        Err(ProposeError::Rejected(rejected)) => {
            tracing::debug!(%node, why = rejected.message, "reports refused");
            Vec::new()
        }
        // That this replica does not lead any more ends the session by other ways.
        Err(error) => {
            tracing::debug!(%node, %error, "reports not yet in the log");
            tokio::time::sleep(RETRY_PAUSE).await;
            reports
        }
    }
}

fn reports_of(node: &NodeId, reports: Vec<wire::SandboxReport>) -> Op {
    Op::ReportStatus(wire::ReportStatus {
        node_id: node.to_string(),
        reports,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

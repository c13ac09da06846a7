//! The conversation with a leader that has welcomed the agent: heartbeats and reports up, desired states and
//! requests for relays down. Ends with the first sign that this replica leads no more.

use super::relay::Relays;
use super::{Node, dial, heartbeat, lease};
use crate::blocking::blocking;
use crate::clock::BootTime;
use crate::ledger::{Ledger, LedgerError};
use crate::report::Seen;
use futures::future::BoxFuture;
use proto::wire;
use proto::wire::agent_message::Message as Up;
use proto::wire::leader_message::Message as Down;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tonic::{Status, Streaming};

/// Heartbeats without an answer after which a leader is given up. It may have been replaced without a word to
/// anybody; one that is merely slow answers within some of these.
const UNANSWERED: usize = 3;

/// Desired states that wait for the disk; with more, the leader waits.
const MAX_OFFERS: usize = 1_024;

/// A welcome, and what it came over.
pub(super) struct Link {
    /// For the streams of users, which must not hold up the conversation.
    pub(super) relays: Relays,
    pub(super) welcome: wire::Welcome,
    pub(super) inbound: Streaming<wire::LeaderMessage>,
    pub(super) outbound: mpsc::Sender<wire::AgentMessage>,
    /// What the inventory in the hello has told.
    pub(super) seen: Seen,
    pub(super) hello_sent: BootTime,
}

/// Why a conversation has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("it has ended the stream")]
    Closed,
    #[error("{}", dial::text(.0))]
    Broken(Box<Status>),
    #[error("it has not answered the last {UNANSWERED} heartbeats")]
    Silent,
    #[error("{0}")]
    Refused(LedgerError),
    #[error("it does not take what is sent")]
    Stuck,
}

/// Heartbeats under way, oldest first: their numbers, and when each was sent.
#[derive(Default)]
struct Beats {
    sequence: u64,
    sent: VecDeque<(u64, BootTime)>,
}

/// Reports under way, so that a leader which can't write them down as fast is not told more than it can: what changes
/// meanwhile is told with the next one.
struct Reporting {
    /// `None`: this leader acknowledges none.
    window: Option<u32>,
    unanswered: u32,
}

/// Desired states on their way to stable storage. Heartbeats are answered meanwhile: a slow disk must cost neither
/// the leader nor the lease. What arrives during a write is written with the next one, all at once.
#[derive(Default)]
struct Offers {
    /// With the moment that each arrived.
    waiting: Vec<(wire::Desired, BootTime)>,
    under_way: Option<BoxFuture<'static, Result<(), LedgerError>>>,
}

impl Link {
    /// Speaks with the leader until something ends it. `spread` is what the leader last said of the time over which its
    /// agents shall come to the next one.
    pub(super) async fn hold(self, node: &Arc<Node>, spread: &mut Duration) -> Ended {
        let Self {
            mut relays,
            welcome,
            mut inbound,
            outbound,
            mut seen,
            hello_sent,
        } = self;
        let every = heartbeat(&welcome);
        let lease = lease(&welcome);
        node.lease.renew(hello_sent, lease);
        let patience = every * 3;
        let mut beats = Beats::default();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut offers = Offers::default();
        let mut reporting = Reporting::new(welcome.report_window);
        let speak = |message| speak(&outbound, message, patience);
        loop {
            let spoken = tokio::select! {
                message = inbound.message(), if offers.waiting.len() < MAX_OFFERS => match message {
                    Ok(Some(message)) => {
                        match hear(message, node, &mut relays, &mut offers) {
                            Heard::Acknowledged(ack) => {
                                *spread = Duration::from_millis(ack.spread_ms);
                                if let Some(sent) = beats.acknowledged(ack.sequence) {
                                    node.lease.renew(sent, lease);
                                }
                                Ok(())
                            }
                            Heard::TakenIn(reports) => {
                                reporting.acknowledged(reports);
                                Ok(())
                            }
                            Heard::Asked => match beats.asked(node) {
                                Some(heartbeat) => {
                                    ticks.reset();
                                    speak(Up::Heartbeat(heartbeat)).await
                                }
                                None => Ok(()),
                            },
                            Heard::Refused(refused) => speak(Up::RelayRefused(refused)).await,
                            Heard::Done => Ok(()),
                        }
                    }
                    Ok(None) => Err(Ended::Closed),
                    Err(status) => Err(Ended::Broken(Box::new(status))),
                },
                _ = ticks.tick() => match beats.next(node) {
                    Some(heartbeat) => speak(Up::Heartbeat(heartbeat)).await,
                    None => Err(Ended::Silent),
                },
                changed = node.reports.changed(&mut seen), if reporting.may_speak() => {
                    reporting.spoken();
                    speak(Up::Report(wire::Report { sandboxes: changed })).await
                }
                () = relays.ended() => Ok(()),
                accepted = offers.accepted(&node.ledger) => accepted.map_err(Ended::Refused),
            };
            if let Err(ended) = spoken {
                return ended;
            }
        }
    }
}

/// What a word of the leader leads to.
enum Heard {
    Done,
    /// A heartbeat was heard.
    Acknowledged(wire::HeartbeatAck),
    /// A heartbeat is wanted.
    Asked,
    /// So many reports were taken in.
    TakenIn(u32),
    Refused(wire::RelayRefused),
}

/// Does what the leader says, or sees to it.
fn hear(message: wire::LeaderMessage, node: &Node, relays: &mut Relays, offers: &mut Offers) -> Heard {
    match message.message {
        Some(Down::HeartbeatAck(ack)) => Heard::Acknowledged(ack),
        Some(Down::AskHeartbeat(wire::AskHeartbeat {})) => Heard::Asked,
        Some(Down::ReportAck(ack)) => Heard::TakenIn(ack.reports),
        Some(Down::Desired(desired)) => {
            offers.waiting.push((desired, BootTime::now()));
            Heard::Done
        }
        Some(Down::OpenRelay(open)) => relays
            .open(open, &node.sandboxes)
            .map_or(Heard::Done, Heard::Refused),
        // Said again when replicas have come or gone.
        Some(Down::Welcome(welcome)) => {
            node.learn(&welcome.endpoints);
            Heard::Done
        }
        // Of a leader that is newer than this agent.
        None => Heard::Done,
    }
}

impl Offers {
    /// Returns when some were accepted or one was refused; never where there are none. May be dropped before that.
    async fn accepted(&mut self, ledger: &Arc<Ledger>) -> Result<(), LedgerError> {
        if self.under_way.is_none() && !self.waiting.is_empty() {
            let (ledger, offered) = (ledger.clone(), std::mem::take(&mut self.waiting));
            self.under_way = Some(Box::pin(blocking(move || ledger.accept(offered))));
        }
        let Some(under_way) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let accepted = under_way.await;
        self.under_way = None;
        accepted
    }
}

async fn speak(
    outbound: &mpsc::Sender<wire::AgentMessage>,
    message: Up,
    patience: Duration,
) -> Result<(), Ended> {
    let message = wire::AgentMessage {
        message: Some(message),
    };
    match tokio::time::timeout(patience, outbound.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::Closed),
        Err(_) => Err(Ended::Stuck),
    }
}

impl Reporting {
    fn new(window: u32) -> Self {
        Self {
            window: (window != 0).then_some(window),
            unanswered: 0,
        }
    }

    fn may_speak(&self) -> bool {
        self.window.is_none_or(|window| self.unanswered < window)
    }

    fn spoken(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
    }

    fn acknowledged(&mut self, reports: u32) {
        self.unanswered = self.unanswered.saturating_sub(reports);
    }
}

impl Beats {
    /// `None`: too many are unanswered. Counted in heartbeats and not in time, so that an agent that was held up
    /// itself does not blame its leader.
    fn next(&mut self, node: &Node) -> Option<wire::Heartbeat> {
        (self.sent.len() < UNANSWERED).then(|| self.make(node))
    }

    /// `None`: one is on its way, and the leader has not heard it before it asked, or its answer would have come first.
    fn asked(&mut self, node: &Node) -> Option<wire::Heartbeat> {
        self.sent.is_empty().then(|| self.make(node))
    }

    fn make(&mut self, node: &Node) -> wire::Heartbeat {
        let used = (node.usage)();
        self.sequence += 1;
        // Before it is sent: the lease counts from here.
        self.sent.push_back((self.sequence, BootTime::now()));
        wire::Heartbeat {
            sequence: self.sequence,
            used_cpu_milli: used.cpu_milli,
            used_memory_bytes: used.memory_bytes,
            accepted: node.ledger.version().map(Into::into),
        }
    }

    /// When the heartbeat was sent; it and all before it are forgotten. `None` for a number that is not under way.
    fn acknowledged(&mut self, sequence: u64) -> Option<BootTime> {
        let mut at = None;
        while let Some((number, sent)) = self.sent.front().copied()
            && number <= sequence
        {
            at = (number == sequence).then_some(sent);
            self.sent.pop_front();
        }
        at
    }
}

//! One attempt to reach the leader: connect, say who is there, and hear whether this replica leads.

use super::Node;
use super::link::Link;
use super::relay::{MAX_OPEN, Relays};
use crate::clock::BootTime;
use identity::dial::UrlError;
use prost::Message;
use proto::wire::agent_client::AgentClient;
use proto::wire::agent_message::Message as Up;
use proto::wire::error_detail::Detail;
use proto::wire::leader_message::Message as Down;
use proto::wire::{self, ErrorDetail};
use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

/// A replica that is there accepts at once, and has shaken hands soon after; one behind a broken network must not take
/// the time of the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// From the hello to its answer: the leader writes down first what the inventory tells it, a follower answers at once.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(3);
/// A frozen replica keeps its connections, so that only silence tells of it.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// Thousands of sandboxes in one desired state.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// What one user's stream holds while he does not read. All that may be open hold this much before the connection is
/// full, so that no user stops another one.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = (STREAM_WINDOW * MAX_OPEN as u32).next_power_of_two();
/// Messages to the leader that wait for the network; more than ever do, since reports are not queued.
const OUTBOUND: usize = 16;

/// What an attempt came to.
pub(super) enum Dialled {
    Leader(Box<Link>),
    Follower {
        /// `http://host:port`, as far as it knows.
        leader: Option<String>,
    },
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("its address {0}")]
    Address(#[from] UrlError),
    #[error("cannot connect: {}", innermost(.0))]
    Connect(tonic::transport::Error),
    #[error("refuses this agent: {}", text(.0))]
    Refused(Box<Status>),
    #[error("says nothing for {} s", WELCOME_TIMEOUT.as_secs())]
    Silent,
    #[error("speaks otherwise than a leader should: {0}")]
    Protocol(&'static str),
}

/// Connections to replicas that don't lead, kept while the one that does is sought: an election lasts for several rounds,
/// and what costs a replica most of an attempt is the handshake.
#[derive(Default)]
pub(super) struct Doors(HashMap<String, Channel>);

impl Doors {
    /// Tries the replica at `target`.
    pub(super) async fn dial(&mut self, target: &str, node: &Node) -> Result<Dialled, DialError> {
        let open = self.0.remove(target);
        let (dialled, channel) = dial(target, node, open).await?;
        if let Dialled::Follower { .. } = dialled {
            self.0.insert(target.to_owned(), channel);
        }
        Ok(dialled)
    }

    /// The leader is found.
    pub(super) fn close(&mut self) {
        self.0.clear();
    }
}

/// Over the connection `open`, or a new one; with what it came over.
async fn dial(target: &str, node: &Node, open: Option<Channel>) -> Result<(Dialled, Channel), DialError> {
    let endpoint = node
        .dialer
        .endpoint(target)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = match open {
        Some(channel) => channel,
        None => node.dialer.connect(&endpoint).await.map_err(DialError::Connect)?,
    };
    let client = AgentClient::new(channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    // Another connection, made when the first user comes: heartbeats must not queue behind what users send.
    let endpoint = endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_while_idle(false);
    let relays = Relays::new(AgentClient::new(node.dialer.lazy(&endpoint)));
    match tokio::time::timeout(WELCOME_TIMEOUT, greet(client, relays, node)).await {
        Ok(answer) => Ok((answer?, channel)),
        Err(_) => Err(DialError::Silent),
    }
}

async fn greet(mut client: AgentClient<Channel>, relays: Relays, node: &Node) -> Result<Dialled, DialError> {
    let (outbound, messages) = mpsc::channel(OUTBOUND);
    let (inventory, seen) = node.reports.inventory();
    let hello = wire::Hello {
        node_id: node.id.to_string(),
        labels: node.labels.clone(),
        node: Some(node.report.clone()),
        accepted: node.ledger.version().map(Into::into),
        inventory,
    };
    // Before it is sent: the lease counts from here.
    let sent = BootTime::now();
    let hello = wire::AgentMessage {
        message: Some(Up::Hello(hello)),
    };
    if outbound.send(hello).await.is_err() {
        return Err(DialError::Protocol("the stream has ended"));
    }
    let mut inbound = match client.session(ReceiverStream::new(messages)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return refused(status),
    };
    match inbound.message().await {
        Ok(Some(wire::LeaderMessage {
            message: Some(Down::Welcome(welcome)),
        })) => Ok(Dialled::Leader(Box::new(Link {
            relays,
            welcome,
            inbound,
            outbound,
            seen,
            hello_sent: sent,
        }))),
        Ok(Some(_)) => Err(DialError::Protocol("its first word is no welcome")),
        Ok(None) => Err(DialError::Protocol("it ends the stream without a word")),
        Err(status) => refused(status),
    }
}

fn refused(status: Status) -> Result<Dialled, DialError> {
    match ErrorDetail::decode(status.details()).ok().and_then(|d| d.detail) {
        Some(Detail::NotLeader(not_leader)) => Ok(Dialled::Follower {
            leader: Some(not_leader.endpoint).filter(|e| !e.is_empty()),
        }),
        Some(Detail::Immutable(_) | Detail::RetryAfter(_)) | None => {
            Err(DialError::Refused(Box::new(status)))
        }
    }
}

/// The innermost cause says most: "Connection refused" rather than "transport error".
fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

pub(crate) fn text(status: &Status) -> String {
    match status.source() {
        Some(cause) => innermost(cause),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

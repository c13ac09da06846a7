//! Kept connections to the other replicas: one per replica and [`Lane`], made when first used, made anew when
//! broken, never per call.
//!
//! Owns how a replica is dialled and when a silent connection counts as broken. Knows nothing of what is said;
//! called by [`super::network`] and [`super::read`].

use super::types::Member;
use crate::listen::Origin;
use identity::dial::{Dialer, UrlError};
use identity::principal::Principal;
use proto::wire::raft_client::RaftClient;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::metadata::{AsciiMetadataValue, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Names the replica that a request is meant for.
pub(super) const TARGET: &str = "sbx-replica";
/// The largest message either side takes. An append holds at most one entry beyond [`super::append::PART_BYTES`],
/// and an entry at most [`super::propose::MAX_COMMAND_BYTES`] beyond a full batch; this is twice their sum.
pub(super) const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Far above the round trips of a handshake within a region, and below the second after which a lost SYN is sent
/// again: a replica that comes back is dialled anew instead of waiting for that.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A replica that is frozen or cut off sends no FIN. Without a ping its connection would hang in TCP's
/// retransmissions, whose pauses double, for long after the way is free again.
const PING_EVERY: Duration = Duration::from_millis(250);
/// Longer than a loaded machine keeps a runnable thread waiting.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// What may be under way unconsumed: more than a round trip's worth of log on a fast network.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 8 << 20;

/// What must not wait for each other travels on connections of its own: heartbeats and votes not for the log,
/// the log not for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    /// Small and urgent: heartbeats, votes, read indexes.
    Pulse,
    Log,
    Snapshot,
}

/// A client of one replica on one lane.
pub(super) type Peer = RaftClient<InterceptedService<Channel, Addressed>>;

/// The connections of this replica. Clones share them.
#[derive(Clone)]
pub(super) struct Links {
    dialer: Dialer,
    channels: Arc<Mutex<HashMap<(String, Lane), Channel>>>,
}

impl std::fmt::Debug for Links {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl Links {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            channels: Arc::default(),
        }
    }

    /// A client of replica `id`; connects when it is used.
    ///
    /// # Errors
    /// Where the endpoint is no URL that this replica may dial.
    pub(super) fn peer(&self, id: u64, member: &Member, lane: Lane) -> Result<Peer, UrlError> {
        let key = (member.peer_endpoint.clone(), lane);
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.dial(&member.peer_endpoint)?;
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(
            RaftClient::with_interceptor(channel, Addressed(MetadataValue::from(id)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
    }

    fn dial(&self, url: &str) -> Result<Channel, UrlError> {
        let endpoint = self
            .dialer
            .endpoint(url)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Ok(self.dialer.lazy(&endpoint))
    }
}

/// Puts the number of the replica that is meant on every request.
#[derive(Debug, Clone)]
pub(super) struct Addressed(AsciiMetadataValue);

impl Interceptor for Addressed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(TARGET, self.0.clone());
        Ok(request)
    }
}

/// Refuses what is meant for another replica, an address that has passed to a new owner or a mistyped one, and what
/// comes from none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipient {
    pub(super) id: u64,
    /// Who calls has shown a certificate: it must be a replica's.
    pub(super) certified: bool,
}

impl Interceptor for Recipient {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let origin = request.extensions().get::<Origin>();
        let is_replica = origin.is_some_and(|origin| matches!(origin.principal, Some(Principal::Replica(_))));
        if self.certified && !is_replica {
            return Err(Status::permission_denied(
                "this is for replicas, which show their certificate",
            ));
        }
        let meant = request.metadata().get(TARGET).and_then(|v| v.to_str().ok());
        if meant.and_then(|id| id.parse().ok()) == Some(self.id) {
            return Ok(request);
        }
        Err(Status::failed_precondition(format!(
            "this is replica {}, the request is meant for {}",
            self.id,
            meant.unwrap_or("none")
        )))
    }
}

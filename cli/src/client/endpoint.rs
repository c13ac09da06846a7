//! Addresses of replicas, and the connections that are kept to them.

use super::ClientError;
use super::access::{Access, Bearer};
use proto::wire::control_client::ControlClient;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Channel};

/// A replica that is there accepts at once; one behind a broken network must not take the time of the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection whose replica answers no ping for `PING_EVERY + PING_TIMEOUT` is given up, with its streams: a frozen
/// process keeps its connections, so that nothing else tells. Longer than a loaded machine keeps a runnable thread
/// waiting, since a terminal that is given up is gone.
const PING_EVERY: Duration = Duration::from_millis(500);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// What one stream holds while nobody reads it, and all of a connection: a forwarded connection that stands still must
/// not stop others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// 100,000 sandboxes of 2 KiB in one list.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// `https://host:port` or `http://host:port`, valid by construction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(String);

impl Endpoint {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without brackets, where it is an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        let (_, authority) = self.0.split_once("://").unwrap_or_default();
        let (host, _) = authority.rsplit_once(':').unwrap_or_default();
        host.trim_matches(['[', ']'])
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = ClientError;

    /// Takes these and `host:port`, which is the first.
    fn from_str(text: &str) -> Result<Self, ClientError> {
        let refuse = |why: &str| ClientError::Endpoint {
            text: text.to_owned(),
            why: why.to_owned(),
        };
        let trimmed = text.trim().trim_end_matches('/');
        let (scheme, authority) = match trimmed.split_once("://") {
            Some((scheme @ ("http" | "https"), authority)) => (scheme, authority),
            Some(_) => return Err(refuse("write https://HOST:PORT")),
            None => ("https", trimmed),
        };
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| refuse("the port is missing; write https://HOST:PORT"))?;
        if host.is_empty() || host.contains('/') {
            return Err(refuse("write https://HOST:PORT"));
        }
        if !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(refuse("the port must be a number from 1 to 65535"));
        }
        let url = format!("{scheme}://{authority}");
        transport::Endpoint::from_shared(url.clone()).map_err(|e| refuse(&e.to_string()))?;
        Ok(Self(url))
    }
}

/// One connection per replica, opened at its first use and again whenever it broke.
pub(super) struct Channels {
    access: Access,
    open: Mutex<BTreeMap<Endpoint, Channel>>,
}

/// A connection that shows the token.
pub(super) type Service = InterceptedService<Channel, Bearer>;

impl Channels {
    pub(super) fn new(access: Access) -> Self {
        Self {
            access,
            open: Mutex::default(),
        }
    }

    pub(super) fn service(&self, endpoint: &Endpoint) -> Result<Service, ClientError> {
        let mut channels = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(endpoint) {
            Some(channel) => channel.clone(),
            None => {
                let dialled = self
                    .access
                    .dialer
                    .endpoint(&endpoint.0)
                    .map_err(|e| ClientError::Endpoint {
                        text: endpoint.0.clone(),
                        why: e.to_string(),
                    })?
                    .connect_timeout(CONNECT_TIMEOUT)
                    .http2_keep_alive_interval(PING_EVERY)
                    .keep_alive_timeout(PING_TIMEOUT)
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW);
                let channel = self.access.dialer.lazy(&dialled);
                channels.insert(endpoint.clone(), channel.clone());
                channel
            }
        };
        Ok(InterceptedService::new(channel, self.access.bearer.clone()))
    }
}

/// The users' service over a connection.
pub(super) fn control(service: Service) -> ControlClient<Service> {
    ControlClient::new(service).max_decoding_message_size(MAX_ANSWER_BYTES)
}

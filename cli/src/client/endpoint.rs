//! Addresses of replicas, and the connections that are kept to them.

use super::ClientError;
use proto::wire::control_client::ControlClient;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{self, Channel};

/// A replica that is there accepts at once; one behind a broken network must not take the time of the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A stream whose replica answers no ping for `PING_EVERY + PING_TIMEOUT` is given up: a frozen process keeps its
/// connections, so that nothing else tells.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// What one stream holds while nobody reads it, and all of a connection: a forwarded connection that stands still must
/// not stop others.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// 100,000 sandboxes of 2 KiB in one list.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// `http://host:port`, valid by construction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(String);

impl Endpoint {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = ClientError;

    /// Takes `http://host:port` and `host:port`.
    fn from_str(text: &str) -> Result<Self, ClientError> {
        let refuse = |why: &str| ClientError::Endpoint {
            text: text.to_owned(),
            why: why.to_owned(),
        };
        let trimmed = text.trim().trim_end_matches('/');
        if trimmed.starts_with("https://") {
            return Err(refuse(
                "this version speaks plain text only; write http://HOST:PORT",
            ));
        }
        let authority = trimmed.strip_prefix("http://").unwrap_or(trimmed);
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| refuse("the port is missing; write http://HOST:PORT"))?;
        if host.is_empty() || host.contains('/') {
            return Err(refuse("write http://HOST:PORT"));
        }
        if !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(refuse("the port must be a number from 1 to 65535"));
        }
        let url = format!("http://{authority}");
        transport::Endpoint::from_shared(url.clone()).map_err(|e| refuse(&e.to_string()))?;
        Ok(Self(url))
    }
}

/// One connection per replica, opened at its first use and again whenever it broke.
#[derive(Default)]
pub(super) struct Channels(Mutex<BTreeMap<Endpoint, Channel>>);

impl Channels {
    pub(super) fn client(&self, endpoint: &Endpoint) -> Result<ControlClient<Channel>, ClientError> {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(endpoint) {
            Some(channel) => channel.clone(),
            None => {
                let channel = transport::Endpoint::from_shared(endpoint.0.clone())
                    .map_err(|e| ClientError::Endpoint {
                        text: endpoint.0.clone(),
                        why: e.to_string(),
                    })?
                    .connect_timeout(CONNECT_TIMEOUT)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(PING_EVERY)
                    .keep_alive_timeout(PING_TIMEOUT)
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .connect_lazy();
                channels.insert(endpoint.clone(), channel.clone());
                channel
            }
        };
        Ok(ControlClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
    }
}

//! The forms of single settings: a time, a replica in a list, the look of log lines. Called by `config`.

use proto::units::{Bytes, QuantityError};
use proto::wire;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A time such as `10s`, `1m 30s` or `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = humantime::DurationError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

/// Bytes such as `256Mi` or `1G`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub Bytes);

impl FromStr for Size {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Bytes::parse(text).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One replica of a cluster: `ID=PEER_URL=URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// 1 or more.
    pub id: u64,
    /// For the other replicas.
    pub peer_endpoint: String,
    /// For users and agents.
    pub endpoint: String,
}

/// Why a text does not name a replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error(
        "`{0}` does not name a replica: write ID=PEER_URL=URL, such as 1=https://10.0.0.1:7071=https://10.0.0.1:7070"
    )]
    Form(String),
    #[error("`{0}` is not a replica's number: 1 or more")]
    Id(String),
    #[error("`{0}` must begin with https://, or with http:// where --insecure is given")]
    Url(String),
}

impl FromStr for Peer {
    type Err = PeerError;
    fn from_str(text: &str) -> Result<Self, PeerError> {
        let mut parts = text.trim().split('=');
        let (Some(id), Some(peer_endpoint), Some(endpoint), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PeerError::Form(text.to_owned()));
        };
        for url in [peer_endpoint, endpoint] {
            let rest = url
                .strip_prefix("https://")
                .or_else(|| url.strip_prefix("http://"));
            if rest.is_none_or(str::is_empty) {
                return Err(PeerError::Url(url.to_owned()));
            }
        }
        match id.parse() {
            Ok(id) if id > 0 => Ok(Self {
                id,
                peer_endpoint: peer_endpoint.to_owned(),
                endpoint: endpoint.to_owned(),
            }),
            Ok(_) | Err(_) => Err(PeerError::Id(id.to_owned())),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}={}", self.id, self.peer_endpoint, self.endpoint)
    }
}

impl From<&Peer> for wire::Member {
    fn from(peer: &Peer) -> Self {
        Self {
            id: peer.id,
            peer_endpoint: peer.peer_endpoint.clone(),
            endpoint: peer.endpoint.clone(),
        }
    }
}

/// As `InitCluster` names a member.
impl From<&Peer> for wire::Replica {
    fn from(peer: &Peer) -> Self {
        Self {
            id: peer.id,
            endpoint: peer.endpoint.clone(),
            peer_endpoint: peer.peer_endpoint.clone(),
            voter: true,
            ..Self::default()
        }
    }
}

/// How log lines on stderr look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a person, with colours on a terminal
    Human,
    /// One JSON object per line
    Json,
}

/// In the file as on the command line.
macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Span, Size, Peer);

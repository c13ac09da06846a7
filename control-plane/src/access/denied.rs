//! Why somebody is turned away. Says what to do about it, and never what of a secret was right.

use super::caller::Role;
use identity::token::TokenError;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "no token: send `Authorization: Bearer TOKEN`; sbxctl takes --token or SBX_TOKEN. An administrator makes one \
         with `sbxctl token create`"
    )]
    NoToken,
    #[error("what was sent as a token {0}")]
    Malformed(TokenError),
    #[error(
        "the token is not known to this cluster: it was revoked, or is another cluster's. An administrator makes one \
         with `sbxctl token create`"
    )]
    Unknown,
    #[error("token {0} has expired; an administrator makes another one with `sbxctl token create`")]
    Expired(String),
    #[error("token {0} lets a machine join, and is good for nothing else")]
    ForJoining(String),
    /// The cluster is being formed.
    #[error("this cluster has no token yet; it gets its first one when it has a leader")]
    NotYet,
    #[error("{who} is {}, and this takes {needs}", has.map_or("no person".to_owned(), |role| format!("a {role}")))]
    Role {
        who: String,
        has: Option<Role>,
        needs: Role,
    },
    #[error("this is for agents, which show the certificate of their node; {0} does not")]
    NotNode(String),
    #[error("this is for replicas, which show their certificate; {0} does not")]
    NotReplica(String),
    #[error("too many failed attempts from {source_address}; try again in {}", humantime::format_duration(*retry_after))]
    TooMany {
        source_address: String,
        retry_after: Duration,
    },
}

impl Denied {
    /// Whether it may have been a guess.
    #[must_use]
    pub fn is_failed_attempt(&self) -> bool {
        match self {
            Self::NoToken | Self::Malformed(_) | Self::Unknown | Self::Expired(_) | Self::ForJoining(_) => {
                true
            }
            Self::NotYet
            | Self::Role { .. }
            | Self::NotNode(_)
            | Self::NotReplica(_)
            | Self::TooMany { .. } => false,
        }
    }
}

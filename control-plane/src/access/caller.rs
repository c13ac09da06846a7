//! Who asks: found out once per request, by the gate.

use proto::id::NodeId;
use proto::wire::Grant;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// What a person may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

/// Who asks, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub who: Who,
    pub source: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Somebody, where `--insecure` lets everybody do everything.
    Anybody,
    /// Somebody, where no more is asked.
    Nobody,
    /// A person or a program with a token.
    Token { id: String, name: String, role: Role },
    /// The agent of a node, by its certificate.
    Node(NodeId),
    /// A replica, by its certificate.
    Replica(u64),
}

impl Caller {
    /// For what came past the gate: no request does.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            who: Who::Nobody,
            source: Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// The role that it acts in; `None`: none. A replica has the whole state and the authority's key: nothing would be
    /// gained by refusing it anything.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        match &self.who {
            Who::Anybody | Who::Replica(_) => Some(Role::Admin),
            Who::Token { role, .. } => Some(*role),
            Who::Nobody | Who::Node(_) => None,
        }
    }

    /// Whether it may speak for the agent of `node`.
    #[must_use]
    pub fn is_agent_of(&self, node: &NodeId) -> bool {
        match &self.who {
            Who::Anybody => true,
            Who::Node(own) => own == node,
            Who::Nobody | Who::Token { .. } | Who::Replica(_) => false,
        }
    }
}

impl Role {
    /// `None` where it is a token's for joining.
    #[must_use]
    pub fn of(grant: Grant) -> Option<Self> {
        match grant {
            Grant::Viewer => Some(Self::Viewer),
            Grant::Operator => Some(Self::Operator),
            Grant::Admin => Some(Self::Admin),
            Grant::Unspecified | Grant::JoinNode | Grant::JoinReplica => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Nobody => f.write_str("nobody"),
            Self::Token { id, name, .. } if name.is_empty() => write!(f, "token/{id}"),
            Self::Token { id, name, .. } => write!(f, "token/{id} ({name})"),
            Self::Node(id) => write!(f, "node/{id}"),
            Self::Replica(id) => write!(f, "replica/{id}"),
        }
    }
}

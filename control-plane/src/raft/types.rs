//! The types with which openraft is used here: what is proposed, what comes of it, who takes part.
//!
//! Declares and names; never encodes (that is [`super::codec`]) and never does I/O. Everything in `raft`
//! writes these aliases instead of openraft's generic names.

use proto::wire;
use std::fmt;

openraft::declare_raft_types!(
    /// openraft's parameters for this control plane. A leader is known by its term and its id.
    pub TypeConfig:
        D = Proposal,
        R = Answers,
        NodeId = u64,
        Node = Member,
);

/// What one log entry asks for: the commands that were proposed together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proposal(pub wire::Batch);

impl fmt::Display for Proposal {
    /// For logs: how many commands, never their content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands at {} ms", self.0.commands.len(), self.0.now_ms)
    }
}

/// What became of an entry: one answer per command, in order. Empty for entries without commands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers(pub Vec<wire::Answer>);

/// Where a replica is reached. Its id is the key under which the membership holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// URL of its peer listener, for other replicas.
    pub peer_endpoint: String,
    /// URL of its listener for users and agents.
    pub endpoint: String,
}

/// Who led when an entry was proposed.
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
/// The place of an entry in the log: its leader and its index.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// Whom this replica has voted for, and whether a quorum did.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// An entry of the log.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// What an entry holds.
pub type Payload = openraft::alias::PayloadOf<TypeConfig>;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, Member>;
/// A membership with the entry that brought it about.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

//! openraft's types as protobuf: one encoding for the disk and for other replicas.
//!
//! Encoding is total; decoding checks what openraft would otherwise assert. [`seal`] and [`open`] add and
//! check the checksum of stored values. No I/O.

use super::types::{
    Entry, LeaderId, LogId, Member, Membership, Payload, Proposal, SnapshotMeta, StoredMembership, Vote,
};
use openraft::errors::MembershipError;
use prost::Message;
use proto::wire;
use std::collections::{BTreeMap, BTreeSet};

/// Why bytes or a message are not a value of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("not a membership: {0}")]
    Membership(#[from] MembershipError<u64>),
    #[error("replica {id} is listed twice in a membership")]
    Twice { id: u64 },
    #[error("{len} bytes are too few to hold a checksum")]
    TooShort { len: usize },
    #[error("checksum mismatch: stored {stored:08x}, computed {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("not a {what}: {source}")]
    Protobuf {
        what: &'static str,
        source: prost::DecodeError,
    },
}

type Result<T> = std::result::Result<T, CodecError>;

fn required<T>(field: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or(CodecError::Missing { field })
}

/// Bytes before the value: its CRC-32, little-endian.
const SEAL: usize = 4;

/// The checksum covers the key as well: a value under another's key is as wrong as a changed one.
fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// `value` as stored under `key`: checksum, then value.
pub fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL + value.len());
    sealed.extend_from_slice(&checksum(key, value).to_le_bytes());
    sealed.extend_from_slice(value);
    sealed
}

/// A message as stored under `key`, encoded once into its final place.
pub fn seal_message(key: &[u8], message: &impl Message) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(SEAL + message.encoded_len());
    sealed.extend_from_slice(&[0; SEAL]);
    // Encoding fails only where capacity is bounded; a Vec grows.
    message.encode_raw(&mut sealed);
    let sum = checksum(key, &sealed[SEAL..]);
    sealed[..SEAL].copy_from_slice(&sum.to_le_bytes());
    sealed
}

/// The value that was sealed under `key`.
pub fn open<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8]> {
    let Some((stored, value)) = sealed.split_first_chunk::<SEAL>() else {
        return Err(CodecError::TooShort { len: sealed.len() });
    };
    let stored = u32::from_le_bytes(*stored);
    let computed = checksum(key, value);
    if stored != computed {
        return Err(CodecError::Checksum { stored, computed });
    }
    Ok(value)
}

/// The message that was sealed under `key`; `what` names it in the error.
pub fn open_message<M: Message + Default>(what: &'static str, key: &[u8], sealed: &[u8]) -> Result<M> {
    M::decode(open(key, sealed)?).map_err(|source| CodecError::Protobuf { what, source })
}

pub fn log_id(id: &LogId) -> wire::LogId {
    wire::LogId {
        term: id.leader_id.term,
        leader_id: id.leader_id.node_id,
        index: id.index,
    }
}

pub fn log_id_from(id: wire::LogId) -> LogId {
    let leader_id = LeaderId {
        term: id.term,
        node_id: id.leader_id,
    };
    LogId::new(leader_id, id.index)
}

pub fn vote(vote: &Vote) -> wire::Vote {
    wire::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub fn vote_from(vote: wire::Vote) -> Vote {
    Vote {
        leader_id: LeaderId {
            term: vote.term,
            node_id: vote.node_id,
        },
        committed: vote.committed,
    }
}

pub fn membership(membership: &Membership) -> wire::MembershipConfig {
    let configs = membership.get_joint_config().iter();
    wire::MembershipConfig {
        configs: configs
            .map(|ids| wire::VoterSet {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(&id, member)| wire::Member {
                id,
                peer_endpoint: member.peer_endpoint.clone(),
                endpoint: member.endpoint.clone(),
            })
            .collect(),
    }
}

/// Empty is a membership too: the one before a cluster is formed.
pub fn membership_from(config: wire::MembershipConfig) -> Result<Membership> {
    let mut nodes = BTreeMap::new();
    for node in config.nodes {
        let id = node.id;
        let member = Member {
            peer_endpoint: node.peer_endpoint,
            endpoint: node.endpoint,
        };
        if nodes.insert(id, member).is_some() {
            return Err(CodecError::Twice { id });
        }
    }
    let configs: Vec<BTreeSet<u64>> = config
        .configs
        .into_iter()
        .map(|voters| voters.ids.into_iter().collect())
        .collect();
    Ok(Membership::new(configs, nodes)?)
}

pub fn stored_membership(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id),
        membership: Some(membership(stored.membership())),
    }
}

pub fn stored_membership_from(stored: wire::StoredMembership) -> Result<StoredMembership> {
    let config = required("stored_membership.membership", stored.membership)?;
    Ok(StoredMembership::new(
        stored.log_id.map(log_id_from),
        membership_from(config)?,
    ))
}

/// Takes the entry: a batch moves into its message instead of being copied.
pub fn entry(entry: Entry) -> wire::Entry {
    use wire::entry::Payload as Wire;
    let payload = match entry.payload {
        Payload::Blank => Wire::Blank(wire::Blank {}),
        Payload::Normal(Proposal(batch)) => Wire::Batch(batch),
        Payload::Membership(config) => Wire::Membership(membership(&config)),
    };
    wire::Entry {
        log_id: Some(log_id(&entry.log_id)),
        payload: Some(payload),
    }
}

pub fn entry_from(entry: wire::Entry) -> Result<Entry> {
    use wire::entry::Payload as Wire;
    let payload = match required("entry.payload", entry.payload)? {
        Wire::Blank(wire::Blank {}) => Payload::Blank,
        Wire::Batch(batch) => Payload::Normal(Proposal(batch)),
        Wire::Membership(config) => Payload::Membership(membership_from(config)?),
    };
    Ok(Entry {
        log_id: log_id_from(required("entry.log_id", entry.log_id)?),
        payload,
    })
}

/// How far a state goes. The same in a database and in a snapshot of it.
pub fn position(meta: &SnapshotMeta) -> wire::AppliedPosition {
    wire::AppliedPosition {
        last_log_id: meta.last_log_id.as_ref().map(log_id),
        last_membership: Some(stored_membership(&meta.last_membership)),
    }
}

pub fn position_from(position: wire::AppliedPosition) -> Result<SnapshotMeta> {
    let membership = required("applied_position.last_membership", position.last_membership)?;
    Ok(SnapshotMeta {
        last_log_id: position.last_log_id.map(log_id_from),
        last_membership: stored_membership_from(membership)?,
    })
}

/// What a snapshot covers, as its manifest says.
pub fn snapshot_meta_from(manifest: &wire::SnapshotManifest) -> Result<SnapshotMeta> {
    let membership = required(
        "snapshot_manifest.last_membership",
        manifest.last_membership.clone(),
    )?;
    Ok(SnapshotMeta {
        last_log_id: manifest.last_log_id.map(log_id_from),
        last_membership: stored_membership_from(membership)?,
    })
}

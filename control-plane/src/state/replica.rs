//! The numbers of replicas: given out before a replica joins, and out of use for ever once one is removed. A log under a
//! number that had another log before would vote twice. Who the members are is no part of this state: that is the
//! membership's own entries, in the log.

use super::transaction::Transaction;
use super::{Rejection, Response};
use proto::units::Timestamp;
use proto::wire::rejected::Code;
use proto::wire::{self, Outcome};

/// Given out and removed ones. Each takes an administrator, or a token that one has made; some bytes each.
pub const MAX_NUMBERS: usize = 10_000;

/// What is known of a replica's number, beside the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaNumber {
    pub id: u64,
    /// The token or the request that it was given to; `None`: a member that was never asked to join.
    pub claimed_by: Option<String>,
    pub removed: bool,
    pub at: Timestamp,
}

/// What is asked for a replica that is to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub id: u64,
    pub by: String,
    /// Also where another one has it: the certificate of a member was lost.
    pub again: bool,
    /// Of the members: the next free number lies beyond.
    pub highest_member: u64,
}

pub(super) fn claim(to: &mut Transaction<'_>, claim: Claim) -> Result<Response, Rejection> {
    let Claim {
        id,
        by,
        again,
        highest_member,
    } = claim;
    if id == 0 || by.is_empty() {
        let why = "a replica's number is 1 or more, and given to somebody";
        return Err(Rejection::new(Code::Invalid, why));
    }
    let next = to.state().next_replica(highest_member);
    let known = to.state().replica_number(id);
    if known.is_some_and(|known| known.removed) {
        return Err(Rejection::conflict(removed_text(id, next)));
    }
    let is_own = known.is_some_and(|known| known.claimed_by.as_ref() == Some(&by));
    match known {
        Some(_) if is_own || again => return Ok(done(Outcome::Unchanged)),
        Some(_) => {
            return Err(Rejection::conflict(format!(
                "the number {id} was given to another replica; the next free one is {next}"
            )));
        }
        None => {}
    }
    put(to, id, Some(by), false)?;
    Ok(done(Outcome::Created))
}

pub(super) fn retire(to: &mut Transaction<'_>, id: u64) -> Result<Response, Rejection> {
    let known = to.state().replica_number(id);
    if known.is_some_and(|known| known.removed) {
        return Ok(done(Outcome::Unchanged));
    }
    let claimed_by = known.and_then(|known| known.claimed_by.clone());
    put(to, id, claimed_by, true)?;
    Ok(done(Outcome::Deleted))
}

/// Why a number is refused that was removed.
pub(crate) fn removed_text(id: u64, next: u64) -> String {
    format!("replica {id} was removed, and its number is never used again; the next free one is {next}")
}

fn put(
    to: &mut Transaction<'_>,
    id: u64,
    claimed_by: Option<String>,
    removed: bool,
) -> Result<(), Rejection> {
    let numbers = &to.state().replicas;
    if numbers.len() >= MAX_NUMBERS && !numbers.contains_key(&id) {
        return Err(Rejection::conflict(format!(
            "{MAX_NUMBERS} numbers of replicas were given out, which is the limit"
        )));
    }
    let at = to.stamp.now;
    to.put_replica_number(ReplicaNumber {
        id,
        claimed_by,
        removed,
        at,
    });
    Ok(())
}

fn done(outcome: Outcome) -> Response {
    Response {
        outcome,
        object: None,
    }
}

impl From<&ReplicaNumber> for wire::ReplicaNumber {
    fn from(number: &ReplicaNumber) -> Self {
        Self {
            id: number.id,
            claimed_by: number.claimed_by.clone().unwrap_or_default(),
            removed: number.removed,
            at_ms: number.at.0,
        }
    }
}

impl From<wire::ReplicaNumber> for ReplicaNumber {
    fn from(number: wire::ReplicaNumber) -> Self {
        Self {
            id: number.id,
            claimed_by: Some(number.claimed_by).filter(|by| !by.is_empty()),
            removed: number.removed,
            at: Timestamp(number.at_ms),
        }
    }
}

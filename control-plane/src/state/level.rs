//! Format levels: which versions of this software can apply which commands. Pure.
//!
//! Replicas of neighbouring versions run together during an upgrade, and each must do the same with every entry of the log:
//! one that does not know a command, or a field of it, would do something else than one that does. So every command
//! has a level, every version a greatest level that it can apply, and the cluster one that all its members have reached:
//! commands beyond that are refused before they come into the log. The leader raises the cluster's level by a command,
//! never lowers it, and a replica that meets a level beyond its own stops and applies nothing. (CockroachDB's and
//! etcd's cluster versions, Kubernetes' feature gates.)
//!
//! Whoever adds a command, or a field to what commands hold, adds a level here and says in [`needed`] what takes it.

use super::Response;
use super::transaction::Transaction;
use proto::wire::{self, Outcome, command::Op};
use std::fmt;

/// A format level.
///
/// | level | what it brings |
/// |---|---|
/// | 0 | all commands from before there were levels |
/// | 1 | levels themselves |
/// | 2 | checks of whether all replicas hold the same |
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u32);

impl Level {
    /// Of a state that was never told a level.
    pub const FIRST: Self = Self(0);
    /// What this version can apply.
    pub const NEWEST: Self = Self(2);
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.0)
    }
}

/// A replica can't apply what is there, and must not skip it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Newer {
    #[error(
        "{cluster} is in force in this cluster, and this version of sbxorch speaks {own} at most: start a newer version; \
         nothing was changed"
    )]
    Cluster { cluster: Level, own: Level },
    #[error(
        "entry {index} of the log holds a command that this version of sbxorch, which speaks {own} at most, does not \
         know: start a newer version; the entry was not applied"
    )]
    Command { index: u64, own: Level },
}

/// What a replica must speak to apply the command; `None`: this version does not know it.
fn needed(command: &wire::Command) -> Option<Level> {
    Some(match command.op.as_ref()? {
        Op::Apply(_)
        | Op::Delete(_)
        | Op::RegisterNode(_)
        | Op::SetNodeState(_)
        | Op::Place(_)
        | Op::ReportStatus(_)
        | Op::Expire(_)
        | Op::ExplainPending(_)
        | Op::ScheduleNode(_)
        | Op::EndDrain(_)
        | Op::SetPolicy(_)
        | Op::CreateToken(_)
        | Op::RevokeToken(_)
        | Op::RedeemToken(_)
        | Op::NoteTokenUses(_)
        | Op::ClaimReplica(_)
        | Op::RetireReplica(_) => Level::FIRST,
        Op::CheckState(_) => Level(2),
        Op::RaiseLevel(raise) => Level(raise.level).max(Level(1)),
    })
}

/// Whether a cluster at `cluster` may take the command into its log; the level that it lacks. Raising the level is
/// what leads out of it, and nobody's but the leader's, which has looked at [`raised`].
pub(crate) fn admit(cluster: Level, command: &wire::Command) -> Result<(), Level> {
    let is_raise = matches!(command.op, Some(Op::RaiseLevel(_)));
    match needed(command) {
        Some(needed) if needed > cluster && !is_raise => Err(needed),
        Some(_) | None => Ok(()),
    }
}

/// Whether a replica that speaks `own` may apply the entry at `index`.
///
/// # Errors
/// [`Newer`]: nothing of the entry may be applied.
pub(crate) fn check_batch(own: Level, index: u64, batch: &wire::Batch) -> Result<(), Newer> {
    for command in &batch.commands {
        match (needed(command), &command.op) {
            (Some(needed), _) if needed <= own => {}
            (Some(cluster), Some(Op::RaiseLevel(_))) => return Err(Newer::Cluster { cluster, own }),
            (Some(_) | None, _) => return Err(Newer::Command { index, own }),
        }
    }
    Ok(())
}

/// Whether a replica that speaks `own` may have a state of this level.
///
/// # Errors
/// [`Newer::Cluster`]
pub(crate) fn check_state(own: Level, cluster: Level) -> Result<(), Newer> {
    if cluster <= own {
        Ok(())
    } else {
        Err(Newer::Cluster { cluster, own })
    }
}

/// What the level is to be raised to, `members` being what all of them speak, voters and learners; `None`: it stays, as
/// it does while one of them is not known.
pub(crate) fn raised(cluster: Level, members: impl IntoIterator<Item = Option<Level>>) -> Option<Level> {
    let mut all = Some(Level::NEWEST);
    for member in members {
        all = all.min(member);
    }
    all.filter(|all| *all > cluster)
}

pub(super) fn raise(to: &mut Transaction<'_>, level: Level) -> Response {
    // Asked again, or by a leader that was deposed.
    let is_new = level > to.state().level();
    if is_new {
        to.put_level(level);
    }
    Response {
        outcome: if is_new {
            Outcome::Configured
        } else {
            Outcome::Unchanged
        },
        object: None,
    }
}

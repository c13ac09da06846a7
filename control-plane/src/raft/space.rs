//! Room on the disk of this replica. A write that finds none stops a replica for good, so that writes are refused before:
//! first those of users that add something, then everything, what the leader sends included. A file keeps some room from
//! everybody else on the disk; it is given up when that is needed, for what must be written all the same (votes, tables
//! that are merged), and taken again when there is room.
//!
//! Owns the measure and the reserve; asked by [`super::propose`] and [`super::peer`] before anything is written.

use crate::clock;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use proto::units::Bytes;
use proto::wire::{self, command::Op};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const RESERVE: &str = "reserve";
/// The measure costs a system call: it is taken this often at most. A disk is not filled faster by more than a fraction of
/// what is kept free.
const FRESH: Duration = Duration::from_millis(50);
/// Below this part of what is to be free, nothing is written any more.
const FULL_PART: u64 = 4;
/// The reserve is this part of it, in addition.
const RESERVE_PART: u64 = 8;

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Plenty,
    /// Users may remove, and add nothing.
    Low,
    /// Nothing is written.
    Full,
}

/// Why nothing is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of replica {replica} is nearly full: {} MiB free, needs {} MiB; free space on the file system of {}, or make \
     it larger: writes go on by themselves then",
    free.0 >> 20,
    needs.0 >> 20,
    dir.display()
)]
pub struct NearlyFull {
    pub replica: u64,
    pub free: Bytes,
    pub needs: Bytes,
    pub dir: PathBuf,
}

/// The disk of one replica. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Space(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    replica: u64,
    dir: PathBuf,
    needs: u64,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Option<Instant>,
    free: u64,
    level: Level,
}

impl Space {
    /// Of the disk that holds `dir`, on which `needs` bytes are to be free. Before the stores are opened: they write.
    pub(super) fn open(replica: u64, dir: &Path, needs: Bytes) -> Self {
        let space = Self(Arc::new(Inner {
            replica,
            dir: dir.to_owned(),
            needs: needs.0,
            seen: Mutex::new(Seen {
                at: None,
                free: u64::MAX,
                level: Level::Plenty,
            }),
        }));
        space.look();
        space
    }

    /// How much room there is, a moment ago at most.
    pub(super) fn look(&self) -> Level {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::instant();
        if seen.at.is_some_and(|at| now.duration_since(at) < FRESH) {
            return seen.level;
        }
        // Where it can't be measured nothing is refused: the disk says itself when it is full.
        let Some(free) = free(&self.0.dir) else {
            return seen.level;
        };
        let level = level(free, self.0.needs);
        if level != seen.level {
            self.tell(level, free);
        }
        *seen = Seen {
            at: Some(now),
            free,
            level,
        };
        drop(seen);
        self.keep_reserve(level, free);
        level
    }

    /// Whether a command may be written.
    pub(super) fn admit(&self, command: &wire::Command) -> Result<(), NearlyFull> {
        let refused = match self.look() {
            Level::Plenty => false,
            Level::Low => adds(command),
            Level::Full => true,
        };
        if refused { Err(self.refusal()) } else { Ok(()) }
    }

    /// Whether what another replica sends may be written.
    pub(super) fn admit_from_leader(&self) -> Result<(), NearlyFull> {
        match self.look() {
            Level::Plenty | Level::Low => Ok(()),
            Level::Full => Err(self.refusal()),
        }
    }

    fn refusal(&self) -> NearlyFull {
        let seen = *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        NearlyFull {
            replica: self.0.replica,
            free: Bytes(seen.free),
            needs: Bytes(self.0.needs),
            dir: self.0.dir.clone(),
        }
    }

    fn tell(&self, level: Level, free: u64) {
        let (free_mib, needs_mib, dir) = (free >> 20, self.0.needs >> 20, self.0.dir.display());
        match level {
            Level::Plenty => tracing::info!(free_mib, %dir, "the disk has room again"),
            Level::Low => tracing::warn!(
                free_mib, needs_mib, %dir,
                "the disk is nearly full: users can remove things, and create none"
            ),
            Level::Full => tracing::error!(
                free_mib, needs_mib, %dir,
                "the disk is full: nothing is written until there is room"
            ),
        }
    }

    fn keep_reserve(&self, level: Level, free: u64) {
        let path = self.0.dir.join(RESERVE);
        let bytes = self.0.needs / RESERVE_PART;
        match level {
            Level::Full => {
                fs::remove_file(&path).ok();
            }
            Level::Plenty if free > self.0.needs + bytes && !path.exists() => {
                let made = File::create_new(&path).and_then(|file| {
                    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
                    Ok(fallocate(file, FallocateFlags::empty(), 0, length)?)
                });
                if let Err(error) = made {
                    tracing::warn!(path = %path.display(), %error, "cannot keep room for when the disk is full");
                    // Half of it would pass for all of it.
                    fs::remove_file(&path).ok();
                }
            }
            Level::Plenty | Level::Low => {}
        }
    }
}

/// Bytes that a program may still write; `None` where nobody can tell.
fn free(dir: &Path) -> Option<u64> {
    let stats = statvfs(dir).ok()?;
    Some(stats.blocks_available() as u64 * stats.fragment_size() as u64)
}

fn level(free: u64, needs: u64) -> Level {
    if free >= needs {
        Level::Plenty
    } else if free >= needs / FULL_PART {
        Level::Low
    } else {
        Level::Full
    }
}

/// Whether a user asks for something that is not there yet. What the control plane writes of its own accord keeps what is
/// there right, and is little.
fn adds(command: &wire::Command) -> bool {
    let by_user = !command.request_id.is_empty();
    let adds_nothing = matches!(
        command.op,
        Some(Op::Delete(_) | Op::RevokeToken(_) | Op::ScheduleNode(_) | Op::CheckState(_))
    );
    by_user && !adds_nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(free_mib: u64, expected: Level) {
        assert_eq!(level(free_mib << 20, 256 << 20), expected, "{free_mib} MiB");
    }

    #[test]
    fn room_is_plenty_low_or_none() {
        check(1_000, Level::Plenty);
        check(256, Level::Plenty);
        check(255, Level::Low);
        check(64, Level::Low);
        check(63, Level::Full);
        check(0, Level::Full);
    }

    #[test]
    fn users_may_remove_where_they_may_not_add() {
        let command = |request: &str, op| wire::Command {
            request_id: request.to_owned(),
            op: Some(op),
        };
        let apply = Op::Apply(wire::ApplyObject::default());
        let delete = Op::Delete(wire::DeleteObject::default());
        let report = Op::ReportStatus(wire::ReportStatus::default());
        assert!(adds(&command("a", apply)));
        assert!(!adds(&command("a", delete)));
        assert!(!adds(&command("", report)));
    }

    #[test]
    fn reserve_is_kept_while_there_is_room() {
        let dir = tempfile::tempdir().expect("a folder");
        let space = Space::open(1, dir.path(), Bytes(1 << 20));
        assert_eq!(space.look(), Level::Plenty);
        let reserve = dir.path().join(RESERVE);
        assert_eq!(fs::metadata(&reserve).expect("it is there").len(), 1 << 17);
        // More than any disk has: it is given up.
        let space = Space::open(1, dir.path(), Bytes(u64::MAX / 8));
        assert_eq!(space.look(), Level::Full);
        assert!(!reserve.exists());
        let told = space.admit_from_leader().expect_err("refused").to_string();
        assert!(told.contains("the disk of replica 1 is nearly full"), "{told}");
    }
}

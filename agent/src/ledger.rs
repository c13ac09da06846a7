//! What this node shall run: the desired state that was accepted last, on disk before anybody acts on it. Owns
//! its order: whatever is older than what was accepted is refused, so that a leader that was deposed without
//! noticing changes nothing here, also over a restart of the agent.
//!
//! Acts on nothing itself: `session` brings desired states, `reconcile` follows what is accepted.

use crate::clock::BootTime;
use crate::reserve::Reserve;
use crate::sealed::{self, Durability, SealedError};
use proto::id::Uid;
use proto::wire;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

const FILE: &str = "ledger";
const MAGIC: [u8; 4] = *b"SBXL";

/// Orders desired states: the log entry that each was read at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub term: u64,
    pub index: u64,
}

/// All that shall be on the node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accepted {
    pub version: Version,
    pub sandboxes: BTreeMap<Uid, Arc<Wanted>>,
}

/// One sandbox that shall be on the node.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub desired: wire::DesiredSandbox,
    /// When its time to live is over.
    pub expires: Option<BootTime>,
}

/// Why a desired state is refused.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "the desired state of {offered} is older than that of {accepted}, which this agent has accepted: it comes from a \
         replica that leads no more, or from another cluster (then remove {} and start the agent again)", path.display()
    )]
    Older {
        offered: Version,
        accepted: Version,
        path: PathBuf,
    },
    #[error("the desired state has no version")]
    NoVersion,
    #[error("the first desired state of a node must be whole, not a change")]
    NotWhole,
    #[error(transparent)]
    File(#[from] SealedError),
}

/// Shared by those who bring and those who follow.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    reserve: Reserve,
    boot_id: String,
    state: Mutex<State>,
    /// `None`: nothing was ever accepted here, or it can't be read any more.
    published: watch::Sender<Option<Arc<Accepted>>>,
}

#[derive(Debug, Default)]
struct State {
    accepted: Option<Arc<Accepted>>,
    /// To be removed, by the leader's word, and not taken yet by who removes; with ids where they are known.
    removed: BTreeMap<Uid, String>,
}

impl Ledger {
    /// Opens the ledger in the folder `dir`. A damaged file is put aside, and the node then waits for a leader to
    /// say what shall run: until then nothing is begun and nothing is ended.
    ///
    /// # Errors
    /// [`LedgerError::File`] where the disk fails.
    pub fn open(dir: &Path, boot_id: &str) -> Result<Self, LedgerError> {
        let path = dir.join(FILE);
        let stored = match sealed::read::<wire::Ledger>(&path, MAGIC) {
            Err(error @ SealedError::Damaged { .. }) => {
                let aside = path.with_extension("damaged");
                tracing::error!(%error, kept_as = %aside.display(), "waiting for a leader to say what shall run here");
                std::fs::rename(&path, &aside).map_err(|source| SealedError::Io {
                    act: "put aside",
                    path: path.clone(),
                    source,
                })?;
                None
            }
            read => read?,
        };
        let accepted = stored.map(|stored| Arc::new(accepted(stored, boot_id)));
        Ok(Self {
            path,
            reserve: Reserve::keep(dir),
            boot_id: boot_id.to_owned(),
            published: watch::Sender::new(accepted.clone()),
            state: Mutex::new(State {
                accepted,
                removed: BTreeMap::new(),
            }),
        })
    }

    /// Takes desired states in, in their order, on stable storage, and then lets those know who follow. Times to live
    /// are counted from the moment beside each, at which it arrived. Blocks for one write to the disk, however many
    /// there are.
    ///
    /// # Errors
    /// [`LedgerError`] for the first that is refused; what was accepted before it stays in force.
    pub fn accept(&self, offered: Vec<(wire::Desired, BootTime)>) -> Result<(), LedgerError> {
        let mut state = self.lock();
        let mut newest = state.accepted.clone();
        let mut removed = BTreeMap::new();
        let mut refused = Ok(());
        for (desired, arrived) in offered {
            match self.next(newest.as_deref(), desired, arrived, &mut removed) {
                Ok(accepted) => newest = Some(Arc::new(accepted)),
                Err(why) => {
                    refused = Err(why);
                    break;
                }
            }
        }
        let is_new = match (&newest, &state.accepted) {
            (Some(newest), Some(before)) => !Arc::ptr_eq(newest, before),
            (newest, _) => newest.is_some(),
        };
        if let Some(newest) = newest.filter(|_| is_new) {
            self.write(&newest)?;
            state.accepted = Some(newest.clone());
            state.removed.extend(removed);
            // Under the lock, so that the newest one is published last.
            self.published.send_replace(Some(newest));
        }
        refused
    }

    /// What is in force after `before` where `desired` is accepted; what that removes is added to `removed`.
    fn next(
        &self,
        before: Option<&Accepted>,
        desired: wire::Desired,
        arrived: BootTime,
        removed: &mut BTreeMap<Uid, String>,
    ) -> Result<Accepted, LedgerError> {
        let version = Version::from(desired.version.ok_or(LedgerError::NoVersion)?);
        if let Some(before) = before
            && version < before.version
        {
            return Err(LedgerError::Older {
                offered: version,
                accepted: before.version,
                path: self.path.clone(),
            });
        }
        let mut sandboxes = match (desired.full, before) {
            (true, _) => BTreeMap::new(),
            (false, Some(before)) => before.sandboxes.clone(),
            (false, None) => return Err(LedgerError::NotWhole),
        };
        for uid in desired.removed_uids.into_iter().map(Uid) {
            sandboxes.remove(&uid);
            let known = before.and_then(|before| before.sandboxes.get(&uid));
            removed.extend(known.map(|wanted| (uid, wanted.desired.sandbox_id.clone())));
        }
        for sandbox in desired.sandboxes {
            sandboxes.insert(Uid(sandbox.uid), Arc::new(wanted(sandbox, arrived)));
        }
        Ok(Accepted { version, sandboxes })
    }

    /// The newest version that was accepted.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.lock().accepted.as_ref().map(|accepted| accepted.version)
    }

    /// What is accepted, now and whenever it changes.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Accepted>>> {
        self.published.subscribe()
    }

    /// The sandboxes that the leader has named for removal since this was called last, by uid and id: it waits to
    /// hear of each that it is gone, also where nobody here had begun with it.
    #[must_use]
    pub fn take_removed(&self) -> BTreeMap<Uid, String> {
        std::mem::take(&mut self.lock().removed)
    }

    /// Also where the disk is full, so that what fills it can be removed.
    fn write(&self, accepted: &Accepted) -> Result<(), SealedError> {
        let stored = self.stored(accepted);
        let write = || sealed::write(&self.path, MAGIC, &stored, Durability::Power);
        match write() {
            Err(SealedError::Io { source, .. }) if self.reserve.spend(&source) => {
                tracing::error!(
                    path = %self.path.display(),
                    "the disk is full: remove sandboxes or images, or make it larger"
                );
                write()?;
            }
            written => written?,
        }
        self.reserve.restore();
        Ok(())
    }

    fn stored(&self, accepted: &Accepted) -> wire::Ledger {
        let sandboxes = accepted.sandboxes.values().map(|wanted| wire::LedgerSandbox {
            desired: Some(wanted.desired.clone()),
            expires_at_boot_ms: wanted.expires.map_or(0, |at| at.0),
        });
        wire::Ledger {
            accepted: Some(accepted.version.into()),
            boot_id: self.boot_id.clone(),
            sandboxes: sandboxes.collect(),
        }
    }

    /// A panic while the lock was held leaves a whole state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wanted(mut desired: wire::DesiredSandbox, now: BootTime) -> Wanted {
    let remaining = std::mem::take(&mut desired.ttl_remaining_ms);
    Wanted {
        desired,
        expires: (remaining != 0).then(|| now.plus(Duration::from_millis(remaining))),
    }
}

/// Deadlines of another boot mean nothing: what they were set for ended with that boot.
fn accepted(stored: wire::Ledger, boot_id: &str) -> Accepted {
    let same_boot = stored.boot_id == boot_id;
    let sandboxes = stored.sandboxes.into_iter().filter_map(|sandbox| {
        let expires = sandbox.expires_at_boot_ms;
        let desired = sandbox.desired?;
        let expires = (same_boot && expires != 0).then_some(BootTime(expires));
        Some((Uid(desired.uid), Arc::new(Wanted { desired, expires })))
    });
    Accepted {
        version: stored.accepted.unwrap_or_default().into(),
        sandboxes: sandboxes.collect(),
    }
}

impl From<wire::Version> for Version {
    fn from(wire: wire::Version) -> Self {
        Self {
            term: wire.term,
            index: wire.index,
        }
    }
}

impl From<Version> for wire::Version {
    fn from(version: Version) -> Self {
        Self {
            term: version.term,
            index: version.index,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}, index {}", self.term, self.index)
    }
}

#[cfg(test)]
mod tests;

//! How long this node may let its sandboxes run without hearing from a leader. Owns the deadline, also over a
//! restart of the agent; ends nothing itself. Renewed by `session`, awaited by `reconcile`.
//!
//! Why two copies of a sandbox never run at once: a leader gives a node's sandboxes up when it has received no
//! heartbeat for the lease. The agent counts the same lease from the moment that it *sent* the last heartbeat
//! which was acknowledged, hence before the leader received it, and a new leader counts from no earlier than
//! its own election. So the agent's lease is over first, whatever the network does, and it ends all that runs
//! [`margin`] before that: the margin covers the ending itself and clocks that run at different speeds. A leader
//! that has lost its quorum must stop to acknowledge, since its successor hears nothing of these heartbeats.
//!
//! The end of the lease is also the deadline of every monitor (see `sandbox`), so that it holds where no agent
//! is alive to see it.

use crate::clock::{self, BootTime};
use crate::sealed::{self, Durability, SealedError};
use proto::wire;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

const FILE: &str = "lease";
const MAGIC: [u8; 4] = *b"SBXT";
/// Of the lease: what the margin is at most. Quartz clocks differ by less than a thousandth.
const MARGIN_PART: u32 = 6;
/// Killing is a matter of milliseconds; a machine that is short of memory or disk may take seconds.
const LONGEST_MARGIN: Duration = Duration::from_secs(10);

/// How long before its end a lease's new end is passed on to the monitors of sandboxes. Some heartbeats long, and
/// short against a lease of the contract's 60 s.
const PASS_ON: Duration = Duration::from_secs(15);

/// What the agent knows of its right to run sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenure {
    /// No leader has given a lease since this boot: whatever ran before ended with the boot.
    Never,
    Until(BootTime),
}

/// Shared by who renews and who waits for its end.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    boot_id: String,
    tenure: watch::Sender<Tenure>,
}

/// How long before the end of a lease of this length its sandboxes are ended.
#[must_use]
pub fn margin(lease: Duration) -> Duration {
    (lease / MARGIN_PART).min(LONGEST_MARGIN)
}

impl Lease {
    /// Opens the record in the folder `dir`. One that is damaged counts as a lease that is over: the safe side.
    ///
    /// # Errors
    /// [`SealedError::Io`] where the disk fails.
    pub fn open(dir: &Path, boot_id: &str) -> Result<Self, SealedError> {
        let path = dir.join(FILE);
        let tenure = match sealed::read::<wire::LeaseRecord>(&path, MAGIC) {
            Ok(Some(record)) if record.boot_id == boot_id => Tenure::Until(BootTime(record.until_boot_ms)),
            Ok(_) => Tenure::Never,
            Err(error @ SealedError::Damaged { .. }) => {
                tracing::error!(%error, "taking the lease for over");
                Tenure::Until(BootTime(0))
            }
            Err(error @ SealedError::Io { .. }) => return Err(error),
        };
        Ok(Self {
            path,
            boot_id: boot_id.to_owned(),
            tenure: watch::Sender::new(tenure),
        })
    }

    /// A leader has acknowledged what was sent at `sent`, and gives `lease` from then on. Earlier moments than a
    /// former one's change nothing.
    pub fn renew(&self, sent: BootTime, lease: Duration) {
        let until = sent.plus(lease.saturating_sub(margin(lease)));
        let later = self.tenure.send_if_modified(|tenure| match tenure {
            Tenure::Until(before) if *before >= until => false,
            Tenure::Until(_) | Tenure::Never => {
                *tenure = Tenure::Until(until);
                true
            }
        });
        if later {
            self.write(until);
        }
    }

    #[must_use]
    pub fn tenure(&self) -> Tenure {
        *self.tenure.borrow()
    }

    /// Returns when the lease is over; never where there is none. Once it is renewed it may be over again.
    pub async fn over(&self) {
        let mut tenure = self.tenure.subscribe();
        loop {
            let now = *tenure.borrow_and_update();
            let until = match now {
                Tenure::Never => None,
                Tenure::Until(until) => Some(until),
            };
            tokio::select! {
                () = clock::sleep_until(until) => return,
                changed = tenure.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Returns when the lease is one that has not passed.
    pub async fn held(&self) {
        let mut tenure = self.tenure.subscribe();
        let held = |tenure: &Tenure| match tenure {
            Tenure::Never => false,
            Tenure::Until(until) => !until.has_passed(),
        };
        // The sender lives as long as this.
        tenure.wait_for(held).await.ok();
    }

    /// Returns shortly before `at`, a former end of the lease, once the lease has a later one. So whoever passes the
    /// end on, does so once per lease and not once per heartbeat.
    pub async fn later_than(&self, at: Option<BootTime>) {
        let Some(at) = at else {
            return std::future::pending().await;
        };
        let mut tenure = self.tenure.subscribe();
        clock::sleep_until(Some(at.minus(PASS_ON))).await;
        let later = |tenure: &Tenure| match tenure {
            Tenure::Never => false,
            Tenure::Until(until) => *until > at,
        };
        // The sender lives as long as this.
        tenure.wait_for(later).await.ok();
    }

    /// For the agent that comes after this one. Without it that agent ends what it finds: bad, and safe.
    fn write(&self, until: BootTime) {
        let record = wire::LeaseRecord {
            boot_id: self.boot_id.clone(),
            until_boot_ms: until.0,
        };
        if let Err(error) = sealed::write(&self.path, MAGIC, &record, Durability::Process) {
            tracing::warn!(%error, "a restarted agent would not know of its lease");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn lease_is_over_before_the_leader_gives_up_and_renewing_puts_it_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let lease = Lease::open(folder.path(), "boot").expect("opened");
        assert_eq!(lease.tenure(), Tenure::Never);
        let sent = BootTime::now();
        lease.renew(sent, LEASE);
        let later = sent.plus(Duration::from_millis(30));
        lease.renew(later, LEASE);
        lease.renew(sent, LEASE);
        lease.over().await;
        assert!(later.plus(LEASE - margin(LEASE)).has_passed());
        assert!(!later.plus(LEASE).has_passed(), "it came too late");
    }

    #[test]
    fn restarted_agent_knows_its_lease_and_one_after_a_reboot_has_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let sent = BootTime(1_000_000);
        Lease::open(folder.path(), "boot")
            .expect("opened")
            .renew(sent, LEASE);
        let tenure = |boot| Lease::open(folder.path(), boot).expect("opened").tenure();
        assert_eq!(tenure("boot"), Tenure::Until(BootTime(1_000_050)));
        assert_eq!(tenure("other"), Tenure::Never);
        std::fs::write(folder.path().join(FILE), b"torn").expect("written");
        assert_eq!(tenure("boot"), Tenure::Until(BootTime(0)));
    }
}

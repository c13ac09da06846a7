//! Removes images that nobody uses: when asked to, when they were not used for long, and when the disk gets full, those
//! first that were not used for longest. Never what is in use, see [`super::usage`], nor what was used a moment ago.
//!
//! Killed at any moment it leaves whole images only: names go before what they lead to, and what they led to is first
//! taken out of its place. Called through [`super::ImageStore`].

use super::error::ImageError;
use super::store::Reference;
use super::usage::Usage;
use super::{Inner, parts};
use nix::sys::statvfs::statvfs;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// When images are collected without being asked. Those from archives never are: no registry could bring them back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectPolicy {
    /// Images that were used since then stay, however full the disk is: what was just pulled is about to be started.
    pub grace: Duration,
    /// Images that were not used for longer go; `None`: only when the disk gets full.
    pub unused_for: Option<Duration>,
    /// How full the disk may get, in per cent of its bytes and of its inodes. 1..=100
    pub full_percent: u8,
    /// How full it is at most after a collection, as far as images can help. Up to `full_percent`.
    pub freed_percent: u8,
    /// Images that are never collected, as they are named in manifests: those that are pulled ahead.
    pub keep: Vec<String>,
}

impl Default for CollectPolicy {
    /// The limits of the disk and the grace are kubelet's, where they have proved themselves.
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(2 * 60),
            unused_for: Some(Duration::from_secs(7 * 24 * 3600)),
            full_percent: 85,
            freed_percent: 80,
            keep: Vec::new(),
        }
    }
}

impl CollectPolicy {
    /// Whether it stays, however long it was not used.
    fn keeps(&self, reference: &Reference) -> bool {
        reference.is_imported || self.keep.contains(&reference.name)
    }
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// In the order of their removal.
    pub references: Vec<String>,
    /// That came free on disk.
    pub bytes: u64,
}

impl Removed {
    fn add(&mut self, other: Self) {
        self.references.extend(other.references);
        self.bytes += other.bytes;
    }

    /// In the log, for who wonders why an image is pulled again.
    pub(super) fn tell(&self) {
        if !self.references.is_empty() {
            let images = self.references.join(", ");
            tracing::info!(images, bytes = self.bytes, "collected");
        }
    }
}

/// An image with what is known of its use.
pub(super) struct Known {
    pub(super) reference: Reference,
    pub(super) in_use: bool,
}

impl Inner {
    /// All images of the store, by name.
    pub(super) fn survey(&self, usage: &Usage) -> Result<Vec<Known>, ImageError> {
        let with_use = |reference: Reference| Known {
            in_use: parts(&self.store, &reference.manifest)
                .is_some_and(|parts| usage.has_stack(&parts.layers)),
            reference,
        };
        Ok(self.store.references()?.into_iter().map(with_use).collect())
    }

    /// Removes the named images, and what nobody needs then.
    ///
    /// # Errors
    /// [`ImageError::NotHere`] and [`ImageError::Used`]; nothing is removed then.
    pub(super) fn remove(&self, names: &[String]) -> Result<Removed, ImageError> {
        self.take(|known| {
            for name in names {
                match known.iter().find(|k| k.reference.name == *name) {
                    None => return Err(ImageError::NotHere { image: name.clone() }),
                    Some(k) if k.in_use => return Err(ImageError::Used { image: name.clone() }),
                    Some(_) => {}
                }
            }
            Ok(names.to_vec())
        })
    }

    /// Removes all images that are not in use, were not used since `unused_for` and are not kept.
    pub(super) fn prune(
        &self,
        unused_for: Duration,
        is_kept: impl Fn(&Reference) -> bool,
    ) -> Result<Removed, ImageError> {
        self.take(|known| Ok(victims(&known, unused_for, is_kept)))
    }

    /// Does what `policy` says.
    pub(super) fn tidy(&self, policy: &CollectPolicy) -> Result<Removed, ImageError> {
        let mut removed = match policy.unused_for {
            Some(unused_for) => self.prune(unused_for.max(policy.grace), |r| policy.keeps(r))?,
            None => Removed::default(),
        };
        removed.add(self.make_room(policy)?);
        Ok(removed)
    }

    /// Where the disk is full by `policy`, removes images until it is not.
    pub(super) fn make_room(&self, policy: &CollectPolicy) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        let root = self.store.root();
        if used_percent(root)? < u64::from(policy.full_percent) {
            return Ok(removed);
        }
        // One after the other, because only the disk can tell what each has brought.
        while used_percent(root)? > u64::from(policy.freed_percent) {
            let one = self.take(|known| {
                let mut oldest = victims(&known, policy.grace, |r| policy.keeps(r));
                oldest.truncate(1);
                Ok(oldest)
            })?;
            if one.references.is_empty() {
                let path = root.display();
                let limit = policy.freed_percent;
                tracing::warn!(%path, "its disk is fuller than {limit} %, and no image is unused");
                break;
            }
            removed.add(one);
        }
        Ok(removed)
    }

    /// Forgets the images that `choose` names, and removes all that no image and nobody needs.
    fn take(
        &self,
        choose: impl FnOnce(Vec<Known>) -> Result<Vec<String>, ImageError>,
    ) -> Result<Removed, ImageError> {
        let swept;
        let mut removed = Removed::default();
        {
            let steady = self.store.steady();
            // Held as well, so that nobody gets an image that is about to go.
            let mut images = self.images();
            let usage = images.usage()?;
            for name in choose(self.survey(&usage)?)? {
                self.store.forget(&steady, &name)?;
                images.forget(&name);
                removed.references.push(name);
            }
            let mut wanted = BTreeSet::new();
            for reference in self.store.references()? {
                if let Some(parts) = parts(&self.store, &reference.manifest) {
                    wanted.extend(parts.layers);
                    wanted.insert(parts.config);
                }
                wanted.insert(reference.manifest);
            }
            swept = self.store.sweep(&steady, |digest| {
                wanted.contains(digest) || usage.has_layer(digest)
            })?;
        }
        removed.bytes = swept.iter().map(|aside| size(aside.path())).sum();
        drop(swept);
        Ok(removed)
    }
}

/// The names of the images that may go, those in front that were not used for longest. A use in the future, before the
/// clock was set back, counts as now.
fn victims(known: &[Known], unused_for: Duration, is_kept: impl Fn(&Reference) -> bool) -> Vec<String> {
    let now = SystemTime::now();
    let may_go = |k: &&Known| {
        let unused = now.duration_since(k.reference.used).unwrap_or_default();
        !k.in_use && unused >= unused_for && !is_kept(&k.reference)
    };
    let mut found: Vec<&Known> = known.iter().filter(may_go).collect();
    found.sort_by_key(|k| k.reference.used);
    found.iter().map(|k| k.reference.name.clone()).collect()
}

/// Of the bytes or the inodes that there are for use, whichever is more; as df(1) counts.
fn used_percent(folder: &Path) -> Result<u64, ImageError> {
    let disk =
        statvfs(folder).map_err(|e| ImageError::store("ask for the free space of", folder)(e.into()))?;
    let used = |all: u64, free: u64, available: u64| {
        let used = all.saturating_sub(free);
        // Filesystems without a fixed number of inodes say that there are none.
        (used.saturating_mul(100))
            .checked_div(used.saturating_add(available))
            .unwrap_or(0)
    };
    let bytes = used(disk.blocks(), disk.blocks_free(), disk.blocks_available());
    Ok(bytes.max(used(disk.files(), disk.files_free(), disk.files_available())))
}

/// Of all below `path`, as the disk has it. What can't be read counts nothing.
pub(super) fn size(path: &Path) -> u64 {
    let mut sum = 0;
    let mut counted = BTreeSet::new();
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(stat) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        // A file with many names is there once.
        if stat.is_dir() || stat.nlink() == 1 || counted.insert(stat.ino()) {
            sum += stat.blocks() * 512;
        }
        if stat.is_dir()
            && let Ok(entries) = std::fs::read_dir(&path)
        {
            waiting.extend(entries.filter_map(|e| e.ok().map(|e| e.path())));
        }
    }
    sum
}

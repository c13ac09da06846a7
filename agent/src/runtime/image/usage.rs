//! Which layers are in use on this machine. Two sources, each of which alone may miss some: images that this process
//! has given out and that are still held, and what the kernel has mounted, which an earlier process may have given out.
//!
//! Decides nothing. Called by [`super::collect`].

use super::Image;
use super::digest::Digest;
use super::error::ImageError;
use crate::runtime::mountinfo::{self, MountPoint};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

/// Each use is a set of layers.
#[derive(Debug, Default)]
pub(super) struct Usage {
    stacks: Vec<BTreeSet<Digest>>,
    layers: BTreeSet<Digest>,
}

impl Usage {
    /// What is mounted.
    ///
    /// # Errors
    /// Where the kernel's table can't be read: then nothing is known to be unused.
    pub(super) fn mounted() -> Result<Self, ImageError> {
        let table = mountinfo::read().map_err(ImageError::store("read", Path::new(mountinfo::TABLE)))?;
        Ok(Self::of(&table))
    }

    fn of(table: &[MountPoint]) -> Self {
        let mut usage = Self::default();
        for mount in table.iter().filter(|mount| mount.filesystem == "overlay") {
            usage.add(mount.options.iter().flat_map(|option| lower(option)).collect());
        }
        usage
    }

    /// An image that somebody holds.
    pub(super) fn hold(&mut self, image: &Image) {
        self.add(image.layers.iter().filter_map(|path| layer(path)).collect());
    }

    fn add(&mut self, stack: BTreeSet<Digest>) {
        if !stack.is_empty() {
            self.layers.extend(stack.iter().cloned());
            self.stacks.push(stack);
        }
    }

    pub(super) fn has_layer(&self, layer: &Digest) -> bool {
        self.layers.contains(layer)
    }

    /// Whether somebody uses these layers together; a layer alone may be in use for another image.
    pub(super) fn has_stack(&self, layers: &[Digest]) -> bool {
        let stack: BTreeSet<Digest> = layers.iter().cloned().collect();
        self.stacks.contains(&stack)
    }
}

/// The layers in an option of an overlay: `lowerdir=A:B`, or `lowerdir+=A` each since Linux 6.7. By the names of their
/// folders: who has mounted them may have reached ours by another path.
fn lower(option: &str) -> Vec<Digest> {
    let paths = option
        .strip_prefix("lowerdir=")
        .or_else(|| option.strip_prefix("lowerdir+="));
    let each = paths.unwrap_or_default().split(':');
    each.filter_map(|path| layer(Path::new(path))).collect()
}

fn layer(path: &Path) -> Option<Digest> {
    let hex = path.file_name().and_then(OsStr::to_str)?;
    Digest::parse(&format!("sha256:{hex}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(first: char) -> Digest {
        Digest::parse(&format!("sha256:{}", first.to_string().repeat(64))).expect("a digest")
    }

    #[track_caller]
    fn check(filesystem: &str, options: &[&str], want: &[char]) {
        let mount = MountPoint {
            root: "/".into(),
            path: "/somewhere".into(),
            filesystem: filesystem.to_owned(),
            options: options
                .iter()
                .map(|o| o.replace('A', &"a".repeat(64)).replace('B', &"b".repeat(64)))
                .collect(),
        };
        let usage = Usage::of(&[mount]);
        let want: Vec<Digest> = want.iter().copied().map(digest).collect();
        assert_eq!(usage.layers.iter().cloned().collect::<Vec<_>>(), want);
        assert_eq!(usage.has_stack(&want), !want.is_empty());
        assert!(!usage.has_stack(&[digest('a'), digest('c')]));
    }

    #[test]
    fn overlays_tell_their_layers_in_either_form() {
        check(
            "overlay",
            &["rw", "lowerdir=/x/layers/B:/x/layers/A", "upperdir=/u"],
            &['a', 'b'],
        );
        check("overlay", &["lowerdir+=/x/A", "lowerdir+=/y/B"], &['a', 'b']);
        check("overlay", &["lowerdir=/usr:/x/A"], &['a']);
        check("overlay", &["upperdir=/x/A"], &[]);
        check("tmpfs", &["lowerdir=/x/A"], &[]);
    }
}

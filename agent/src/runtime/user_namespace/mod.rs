//! The user namespace of a sandbox: its ids are other ones on the host, so that root inside is nobody outside. Owns what
//! such a namespace is, and who has one; `namespace` makes and pins it, `files` and `bundle` use it.
//!
//! | file | owns |
//! |---|---|
//! | `probe` | whether this node can give sandboxes user namespaces |

mod probe;

pub use probe::{ProbeError, let_pass, probe};

use proto::spec::Runtime;
use std::path::PathBuf;

/// How many ids a sandbox has: all that 16 bits name, which are those of users and groups in images. It is what kubelet,
/// systemd-nspawn and the entries of `/etc/subuid` give a container.
pub const IDS: u32 = 65_536;

/// The ids of one sandbox as the host sees them; users and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    first: u32,
}

impl IdRange {
    /// [`IDS`] from `first` on. `None`: the host's own root would be among them, or what is no id.
    #[must_use]
    pub fn from(first: u32) -> Option<Self> {
        let last = first.checked_add(IDS - 1)?;
        (first > 0 && last < u32::MAX).then_some(Self { first })
    }

    /// Who root inside is on the host.
    #[must_use]
    pub fn root(self) -> u32 {
        self.first
    }

    /// Whether this id of the host is one of them.
    #[must_use]
    pub fn has(self, id: u32) -> bool {
        (self.first..self.first + IDS).contains(&id)
    }

    /// As `/proc/<pid>/uid_map` takes it.
    #[must_use]
    pub(crate) fn map(self) -> String {
        format!("0 {} {IDS}", self.first)
    }
}

/// One that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNamespace {
    /// Where it is pinned.
    pub path: PathBuf,
    pub ids: IdRange,
}

/// Who root of a sandbox is on the host.
#[must_use]
pub fn root_of(namespace: Option<&UserNamespace>) -> u32 {
    namespace.map_or(0, |namespace| namespace.ids.root())
}

/// Whether containers of this runtime can have one that is made for them. gVisor takes none: its programs never make a
/// system call of the host, and what serves them there has no privileges by its own means.
#[must_use]
pub fn takes_user_namespace(runtime: Runtime) -> bool {
    match runtime {
        Runtime::Native | Runtime::Runc | Runtime::Crun => true,
        Runtime::Runsc => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_is_of_ids_that_are_nobody_elses() {
        assert_eq!(IdRange::from(0), None);
        assert_eq!(IdRange::from(u32::MAX - IDS + 1), None);
        assert!(IdRange::from(u32::MAX - IDS).is_some());
        let range = IdRange::from(1 << 28).expect("a range");
        assert_eq!(range.map(), "0 268435456 65536");
        assert_eq!(
            [0, 268_435_455, 268_435_456, 268_500_991, 268_500_992].map(|id| range.has(id)),
            [false, false, true, true, false]
        );
    }
}

//! How the program of a runtime is run: with the surroundings that it needs.

use crate::runtime::sys::namespace;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, Statfs, TMPFS_MAGIC, statfs};
use proto::spec::Runtime;
use std::ffi::CStr;
use std::process::{Command, Stdio};

/// Where crun looks for a unified tree beside those of version 1. If there is one, it takes the cgroups for
/// hybrid, and refuses to make containers once that tree has any controller, be it one of no use for limits
/// such as `hugetlb`. If there is none, it uses the trees of version 1, as all else here does on such a machine.
const UNIFIED: &CStr = c"/sys/fs/cgroup/unified";
/// Where all trees are mounted; of a unified tree alone, this is the root.
const TREES: &str = "/sys/fs/cgroup";

/// The program of that runtime, without arguments, found on the search path, and with
/// `/dev/null` for its standard streams.
pub(super) fn command(runtime: Runtime) -> Command {
    let mut command = Command::new(runtime.as_str());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match runtime {
        // Its containers see nothing of this: they have mount namespaces of their own in any case.
        Runtime::Crun if is_unified_beside_others() => namespace::hide(&mut command, UNIFIED),
        Runtime::Native | Runtime::Runc | Runtime::Crun | Runtime::Runsc => {}
    }
    command
}

/// By the test that crun itself makes.
fn is_unified_beside_others() -> bool {
    let is_of = |kind, found: nix::Result<Statfs>| found.is_ok_and(|found| found.filesystem_type() == kind);
    // A unified tree alone may well have a group of that name.
    is_of(TMPFS_MAGIC, statfs(TREES)) && is_of(CGROUP2_SUPER_MAGIC, statfs(UNIFIED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::mountinfo;

    /// The table of mounts as a program sees it which is run in the place of crun.
    fn table_of(runtime: Runtime) -> Vec<mountinfo::MountPoint> {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join(runtime.as_str());
        std::os::unix::fs::symlink("/bin/cat", program).expect("linked");
        let mut command = command(runtime);
        command.env("PATH", folder.path());
        let output = command
            .arg("/proc/self/mountinfo")
            .stdout(Stdio::piped())
            .output();
        let output = output.expect("it runs; these tests need root");
        assert!(output.status.success());
        mountinfo::parse(&output.stdout)
    }

    fn is_unified(mount: &mountinfo::MountPoint) -> bool {
        mount.path.as_os_str().as_encoded_bytes() == UNIFIED.to_bytes() && mount.filesystem == "cgroup2"
    }

    #[test]
    fn crun_sees_no_unified_tree_beside_others_and_all_else() {
        let seen = table_of(Runtime::Crun);
        let unified = seen.iter().filter(|mount| is_unified(mount)).count();
        assert_eq!(unified, 0, "{seen:#?}");
        for (kind, what) in [("cgroup", "trees of version 1"), ("proc", "processes")] {
            let of_kind = |table: &[mountinfo::MountPoint]| {
                let paths = table.iter().filter(|mount| mount.filesystem == kind);
                paths.map(|mount| mount.path.clone()).collect::<Vec<_>>()
            };
            let own = mountinfo::read().expect("read");
            assert_eq!(of_kind(&seen), of_kind(&own), "{what}");
        }
    }

    #[test]
    fn host_keeps_the_unified_tree_that_crun_does_not_see() {
        let was_there = is_unified_beside_others();
        table_of(Runtime::Crun);
        assert_eq!(is_unified_beside_others(), was_there);
        let own = mountinfo::read().expect("read");
        let others = table_of(Runtime::Runc);
        let count = |table: &[mountinfo::MountPoint]| table.iter().filter(|m| is_unified(m)).count();
        assert_eq!(count(&others), count(&own), "only crun needs it");
    }
}

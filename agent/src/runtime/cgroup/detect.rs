//! Finds out from the table of mounts which control groups there are. Pure but for [`detect`].

use super::hybrid::Hybrid;
use super::v1::{self, Hierarchies, Hierarchy};
use super::v2::Unified;
use super::{CgroupError, Trees};
use crate::runtime::mountinfo::{self, MountPoint};
use std::path::{Path, PathBuf};

/// Controllers of version 1 as mount options; all else there are options of another kind.
const V1_CONTROLLERS: [&str; 15] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];
/// A tree may have a name in place of controllers.
const NAMED: &str = "name=";

pub(super) fn detect() -> Result<Trees, CgroupError> {
    let mounts = mountinfo::read().map_err(|source| CgroupError::Read {
        path: PathBuf::from(mountinfo::TABLE),
        source,
    })?;
    choose(&mounts)
}

/// Version 1 where it has all that is needed, else version 2.
pub(super) fn choose(mounts: &[MountPoint]) -> Result<Trees, CgroupError> {
    let v1 = Hierarchies::new(hierarchies(mounts));
    let unified = unified(mounts).map(Unified::at);
    match (v1.missing(), unified) {
        (None, Some(unified)) => Ok(Trees::Hybrid(Hybrid::new(v1, unified.root().to_owned()))),
        (None, None) => Ok(Trees::V1(v1)),
        (Some(_), Some(unified)) if !v1.has(v1::MEMORY) => match unified.missing()? {
            None => Ok(Trees::V2(unified)),
            Some(controller) => Err(CgroupError::NoController {
                controller,
                mode: "v2",
            }),
        },
        (Some(controller), _) => Err(CgroupError::NoController {
            controller,
            mode: "v1",
        }),
    }
}

/// One per tree, however often it is mounted.
fn hierarchies(mounts: &[MountPoint]) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in whole_first(mounts, "cgroup") {
        let controllers: Vec<String> = mount
            .options
            .iter()
            .filter(|o| is_controller(o))
            .cloned()
            .collect();
        if !controllers.is_empty() && !found.iter().any(|h| h.controllers == controllers) {
            found.push(Hierarchy {
                controllers,
                root: mount.path.clone(),
            });
        }
    }
    found
}

fn unified(mounts: &[MountPoint]) -> Option<&Path> {
    whole_first(mounts, "cgroup2").first().map(|m| m.path.as_path())
}

/// Mounts of that kind; those that show a tree from its root on come first.
fn whole_first<'a>(mounts: &'a [MountPoint], filesystem: &str) -> Vec<&'a MountPoint> {
    let of_kind = mounts.iter().filter(|m| m.filesystem == filesystem);
    let (mut whole, part): (Vec<_>, Vec<_>) = of_kind.partition(|m| m.root == Path::new("/"));
    whole.extend(part);
    whole
}

fn is_controller(option: &str) -> bool {
    V1_CONTROLLERS.contains(&option) || option.starts_with(NAMED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const V1: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
";

    /// What is chosen, with the roots of the trees; or what is wrong.
    #[track_caller]
    fn check(table: &str, want: Result<(&str, &[&str]), &str>) {
        let chosen = choose(&mountinfo::parse(table.as_bytes()));
        let found = match &chosen {
            Ok(Trees::V1(v1)) => Ok(("v1", v1.roots().map(Path::to_owned).collect())),
            Ok(Trees::V2(v2)) => Ok(("v2", vec![v2.root().to_owned()])),
            Ok(Trees::Hybrid(hybrid)) => Ok(("hybrid", hybrid.roots().map(Path::to_owned).collect())),
            Err(fault) => Err(fault.to_string()),
        };
        match (found, want) {
            (Ok((mode, roots)), Ok((want, want_roots))) => {
                assert_eq!(mode, want, "{table}");
                let roots: Vec<_> = roots.iter().map(|r: &PathBuf| r.to_string_lossy()).collect();
                assert_eq!(roots, want_roots, "{table}");
            }
            (Err(fault), Err(want)) => assert!(fault.contains(want), "{fault:?} lacks {want:?}"),
            (found, want) => panic!("{found:?} instead of {want:?}"),
        }
    }

    const V1_ROOTS: [&str; 6] = [
        "/sys/fs/cgroup/cpu,cpuacct",
        "/sys/fs/cgroup/memory",
        "/sys/fs/cgroup/devices",
        "/sys/fs/cgroup/freezer",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/systemd",
    ];

    #[test]
    fn machine_with_v1_alone_is_v1() {
        check(V1, Ok(("v1", &V1_ROOTS)));
    }

    #[test]
    fn unified_tree_beside_v1_is_hybrid() {
        let table = format!("{V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let roots = [&V1_ROOTS[..], &["/sys/fs/cgroup/unified"]].concat();
        check(&table, Ok(("hybrid", &roots)));
    }

    #[test]
    fn unified_tree_alone_is_v2() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().display().to_string();
        let table = format!("41 31 0:38 / {root} rw - cgroup2 cgroup2 rw,nsdelegate\n");
        fs::write(
            folder.path().join("cgroup.controllers"),
            "cpuset cpu io memory pids\n",
        )
        .expect("written");
        check(&table, Ok(("v2", &[&root])));
        fs::write(folder.path().join("cgroup.controllers"), "cpuset cpu io pids\n").expect("written");
        check(&table, Err("lack the controller memory (v2)"));
        // Some tools still want one tree of version 1.
        fs::write(folder.path().join("cgroup.controllers"), "cpu memory pids\n").expect("written");
        let table = format!("{table}42 31 0:39 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n");
        check(&table, Ok(("v2", &[&root])));
    }

    #[test]
    fn missing_controller_is_named() {
        check(
            &V1.replace("rw,pids", "rw,net_cls"),
            Err("lack the controller pids (v1)"),
        );
        check("", Err("lack the controller memory (v1)"));
    }

    #[test]
    fn tree_that_is_mounted_twice_is_seen_once_and_whole() {
        let part = "50 31 0:32 /docker/7 /mnt/memory rw - cgroup cgroup rw,memory\n";
        let whole = "51 31 0:32 / /mnt/again rw - cgroup cgroup rw,memory\n";
        check(&format!("{part}{V1}{whole}"), Ok(("v1", &V1_ROOTS)));
    }

    #[test]
    fn this_machine_has_cgroups() {
        detect().expect("detected");
    }
}

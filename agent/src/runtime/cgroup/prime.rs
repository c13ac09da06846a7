//! Takes a wait off the start of a sandbox. The first move of a process after some 15 ms without one waits
//! until every cpu has passed through the scheduler (an RCU grace period, 6 to 13 ms), the next ones don't.
//! Moving a process to where it is already counts as one.

use super::CgroupError;
use super::tree;
use std::fs;
use std::path::{Path, PathBuf};

const OWN: &str = "/proc/self/cgroup";

/// Moves this process to where it is in the tree `root`: that of a `controller` of version 1, or the unified one.
pub(super) fn prime(root: &Path, controller: Option<&str>) -> Result<(), CgroupError> {
    let path = PathBuf::from(OWN);
    let own = fs::read_to_string(&path).map_err(|source| CgroupError::Read {
        path: path.clone(),
        source,
    })?;
    let group = group(&own, controller).ok_or(CgroupError::Malformed {
        path,
        what: "line for this tree",
    })?;
    tree::write(&root.join(group), tree::PROCS, &std::process::id().to_string())
}

/// The group of a process, relative to the root of the tree.
fn group<'a>(own: &'a str, controller: Option<&str>) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let is_it = match controller {
            Some(controller) => controllers.split(',').any(|c| c == controller),
            None => controllers.is_empty(),
        };
        path.strip_prefix('/').filter(|_| is_it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(controller: Option<&str>, want: Option<&str>) {
        let own = "9:name=systemd:/a:b\n8:pids:/\n2:cpu,cpuacct:/x/y\n0::/user.slice/s\nodd\n";
        assert_eq!(group(own, controller), want, "{controller:?}");
    }

    #[test]
    fn own_group_is_found_in_each_tree() {
        check(Some("pids"), Some(""));
        check(Some("cpuacct"), Some("x/y"));
        check(Some("name=systemd"), Some("a:b"));
        check(None, Some("user.slice/s"));
        check(Some("memory"), None);
    }
}

//! Version 2: its rules on a folder that stands for the tree, and the real unified tree of this machine as
//! far as that has controllers; it has none of use where version 1 has them.

use super::*;
use crate::runtime::cgroup::v2::Unified;
use std::fs;
use tempfile::TempDir;

/// The files of a group that the kernel would make.
const FILES: [(&str, &str); 7] = [
    ("cgroup.controllers", "cpuset cpu io memory pids rdma\n"),
    ("cgroup.subtree_control", ""),
    ("cgroup.procs", ""),
    ("memory.max", "max\n"),
    ("memory.swap.max", "max\n"),
    ("pids.max", "max\n"),
    ("memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 0\n"),
];

fn tree(groups: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for group in groups {
        let group = folder.path().join(group);
        fs::create_dir_all(&group).expect("made");
        for (name, text) in FILES {
            fs::write(group.join(name), text).expect("written");
        }
    }
    folder
}

#[track_caller]
fn check_file(tree: &TempDir, file: &str, want: &str) {
    assert_eq!(
        fs::read_to_string(tree.path().join(file)).expect("there"),
        want,
        "{file}"
    );
}

#[test]
fn controllers_are_handed_down_to_the_sandbox_and_its_containers() {
    let tree = tree(&["", "sandboxd", "sandboxd/7"]);
    let unified = Unified::at(tree.path());
    unified
        .create(Path::new("/sandboxd/7"), &LIMITS)
        .expect("created");
    for group in ["", "sandboxd/", "sandboxd/7/"] {
        check_file(
            &tree,
            &format!("{group}cgroup.subtree_control"),
            "+memory +cpu +pids +cpuset +io",
        );
    }
    check_file(&tree, "sandboxd/7/memory.max", "67108864");
    check_file(&tree, "sandboxd/7/memory.swap.max", "0");
    check_file(&tree, "sandboxd/7/pids.max", "100");
    check_file(&tree, "sandboxd/memory.max", "max\n");
    assert!(unified.swap_accounted());
}

#[test]
fn only_what_is_there_and_not_yet_handed_on_is_asked_for() {
    let tree = tree(&["", "sandboxd"]);
    let unified = Unified::at(tree.path());
    fs::write(tree.path().join("cgroup.subtree_control"), "cpu memory io\n").expect("written");
    fs::write(tree.path().join("cgroup.controllers"), "cpu io memory pids\n").expect("written");
    unified.make_inner(Path::new("/sandboxd")).expect("made");
    check_file(&tree, "cgroup.subtree_control", "+pids");
    fs::write(tree.path().join("cgroup.subtree_control"), "cpu memory io pids\n").expect("written");
    unified.make_inner(Path::new("/sandboxd")).expect("made");
    check_file(&tree, "cgroup.subtree_control", "cpu memory io pids\n");
}

#[test]
fn process_is_in_a_leaf_which_hands_nothing_on() {
    let tree = tree(&["", "sandboxd", "sandboxd/7", "sandboxd/7/monitor"]);
    let unified = Unified::at(tree.path());
    let group = Path::new("/sandboxd/7/monitor");
    unified.make(group).expect("made");
    unified.add_process(group, Pid::from_raw(17)).expect("added");
    check_file(&tree, "sandboxd/7/monitor/cgroup.procs", "17");
    check_file(&tree, "sandboxd/7/monitor/cgroup.subtree_control", "");
    check_file(
        &tree,
        "sandboxd/7/cgroup.subtree_control",
        "+memory +cpu +pids +cpuset +io",
    );
}

#[test]
fn counts_are_read_and_malformed_ones_named() {
    let tree = tree(&["", "sandboxd"]);
    let unified = Unified::at(tree.path());
    let group = Path::new("/sandboxd");
    assert_eq!(unified.oom_kills(group).expect("read"), 3);
    assert_eq!(
        unified
            .watch_oom(group)
            .and_then(|mut watch| watch.kills())
            .expect("read"),
        3
    );
    let folder = tree.path().join("sandboxd");
    fs::write(folder.join("cpu.stat"), "usage_usec 1234\nuser_usec 1000\n").expect("written");
    fs::write(folder.join("memory.current"), "4096\n").expect("written");
    let usage = Usage {
        cpu_usec: 1234,
        memory_bytes: 4096,
    };
    assert_eq!(unified.usage(group).expect("read"), usage);
    fs::write(folder.join("memory.events"), "low 0\noom 4\n").expect("written");
    let fault = unified.oom_kills(group).expect_err("malformed");
    assert!(
        fault
            .to_string()
            .ends_with("sandboxd/memory.events has no oom_kill"),
        "{fault}"
    );
}

/// The unified tree of this machine, with a parent of the test's own; `None`: it has none.
fn real() -> Option<Parent> {
    let root = match Cgroups::detect().expect("detected").trees {
        Trees::V1(_) => return None,
        Trees::V2(v2) => v2.root().to_owned(),
        Trees::Hybrid(hybrid) => hybrid.roots().last().expect("the unified one").to_owned(),
    };
    Some(Parent::of(Cgroups {
        trees: Trees::V2(Unified::at(&root)),
    }))
}

#[test]
fn processes_in_the_real_tree_are_killed_in_one_step() {
    let Some(parent) = real() else {
        return;
    };
    let path = parent.path.join("7");
    let groups = ["c-a/deeper", "c-b", "monitor"].map(|name| path.join(name));
    let mut shells: Vec<Shell> = groups
        .iter()
        .map(|group| {
            Shell::start(
                &parent,
                group,
                "echo up; trap '' TERM; while :; do (:) & sleep 1 & wait $!; done",
            )
        })
        .collect();
    for shell in &mut shells {
        shell.says("up\n");
    }
    assert_eq!(
        parent.cgroups.children(&path).expect("read"),
        ["c-a", "c-b", "monitor"]
    );
    parent.cgroups.kill(&path).expect("killed");
    assert_eq!(parent.populated(&path), 0);
    for shell in shells {
        assert_eq!(shell.output().status.signal(), Some(9));
    }
    for _ in 0..2 {
        assert_eq!(parent.cgroups.remove(&path).len(), 0);
        assert!(parent.folders(&path).iter().all(|folder| !folder.exists()));
    }
}

#[test]
fn processes_in_the_real_tree_are_killed_by_signals_where_the_kernel_is_older() {
    let Some(parent) = real() else {
        return;
    };
    let group = parent.path.join("c-old");
    let mut shell = Shell::start(
        &parent,
        &group,
        "echo up; while :; do (while :; do (:) & done) & sleep 1; done",
    );
    shell.says("up\n");
    let folders = parent.folders(&parent.path);
    let freezer = kill::Freezer::V2(folders[0].clone());
    // Without the pids controller there is no bound for the bomb but its own pace.
    let quota = kill::Quota::V2(folders[0].clone());
    kill::by_signal(&parent.path, &folders, &freezer, &quota).expect("killed");
    assert_eq!(parent.populated(&parent.path), 0);
    assert_eq!(shell.output().status.signal(), Some(9));
}

#[test]
fn container_is_limited_and_its_shares_become_a_weight() {
    let tree = tree(&["", "sandboxd", "sandboxd/7", "sandboxd/7/c-a"]);
    for file in ["cpu.weight", "cpu.max"] {
        fs::write(tree.path().join("sandboxd/7/c-a").join(file), "").expect("written");
    }
    let unified = Unified::at(tree.path());
    let mut limits = container_limits();
    // A folder takes no program for its devices, which is the last step.
    let fault = unified.create_container(Path::new("/sandboxd/7/c-a"), &limits);
    assert!(matches!(fault, Err(CgroupError::Devices { .. })), "{fault:?}");
    check_file(&tree, "sandboxd/7/c-a/memory.max", "1048576");
    check_file(&tree, "sandboxd/7/c-a/memory.swap.max", "0");
    check_file(&tree, "sandboxd/7/c-a/pids.max", "10");
    check_file(&tree, "sandboxd/7/c-a/cpu.weight", "39");
    check_file(&tree, "sandboxd/7/c-a/cpu.max", "50000 100000");
    for (shares, weight) in [(2, "1"), (262_144, "10000"), (0, "1"), (u64::MAX, "10000")] {
        limits.cpu.shares = shares;
        unified
            .create_container(Path::new("/sandboxd/7/c-a"), &limits)
            .expect_err("no devices");
        check_file(&tree, "sandboxd/7/c-a/cpu.weight", weight);
    }
}

#[test]
fn devices_that_are_not_allowed_cannot_be_opened_in_the_real_tree() {
    let Some(parent) = real() else {
        return;
    };
    let group = parent.path.join("c-devices");
    parent.cgroups.make(&group).expect("made");
    let folder = parent.folders(&group)[0].clone();
    let rules = container_limits().devices;
    crate::runtime::cgroup::devices::allow_only(&folder, &rules).expect("restricted");
    let nodes = tempfile::tempdir().expect("a folder");
    let script = format!(
        "cd {}; for d in 'n 1 3' 'k 1 11' 't 136 7'; do set -- $d; mknod $1 c $2 $3 && echo made; done; \
         (: < n) && echo null; (: < k) || echo no kmsg; (: < t) 2>&1 | grep -c ermitted; (: < /dev/zero) || echo no zero",
        nodes.path().display()
    );
    let shell = Shell::start(&parent, &group, &script);
    let output = shell.output();
    let said = String::from_utf8_lossy(&output.stdout);
    // There is no such terminal, which is another error than that it is forbidden.
    assert_eq!(
        said, "made\nmade\nmade\nnull\nno kmsg\n0\nno zero\n",
        "{output:?}"
    );
}

//! `sbxctl dev` as a process of its own: what it says and leaves where a cluster can't come up. The cluster
//! itself is tested with the real daemons by the crate `e2e`. Needs root.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

/// A folder with sbxctl and programs of our own as its daemons.
struct Installed {
    dir: tempfile::TempDir,
}

impl Installed {
    /// `daemon`: a shell script that stands for a daemon that does not work here.
    fn with(daemon: Option<&str>) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path());
        std::fs::copy(env!("CARGO_BIN_EXE_sbxctl"), dir.path().join("sbxctl")).unwrap();
        if let Some(script) = daemon {
            for name in ["sbxorch", "sbxlet"] {
                std::fs::write(dir.path().join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
                open_to_all(&dir.path().join(name));
            }
        }
        Self { dir }
    }

    fn sbxctl(&self) -> Command {
        let mut command = Command::new(self.dir.path().join("sbxctl"));
        command
            .env("SBX_RUN_DIR", self.dir.path().join("run"))
            .env("SBX_DEV_DIR", self.cluster())
            // No context of whoever runs this.
            .env("HOME", self.dir.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("SBX_SERVER");
        command
    }

    fn cluster(&self) -> std::path::PathBuf {
        self.dir.path().join("cluster")
    }

    fn run(&self, line: &str) -> Output {
        self.sbxctl().args(line.split_whitespace()).output().unwrap()
    }
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[track_caller]
fn check(output: &Output, code: i32, told: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(told), "{stderr}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn member_that_ends_at_once_is_shown_with_its_log_and_all_is_undone() {
    let installed = Installed::with(Some("echo the disk is full >&2; exit 3"));
    let output = installed.run("dev up --replicas 1 --agents 1 --subnet 10.88.230.0/24");
    check(&output, 1, "  the disk is full");
    check(&output, 1, "exit status: 3");
    assert!(!installed.cluster().exists());
    assert!(!Path::new("/sys/class/net/sbxd230").exists());
    assert!(!Path::new("/sys/class/net/sbxd230r1").exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(installed.dir.path().to_str().unwrap()));
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&tables.stdout).contains("sbxd230"));
}

#[test]
fn cluster_that_is_not_ready_in_time_is_undone() {
    let installed = Installed::with(Some("echo still thinking; exec sleep 300"));
    let output = installed.run("dev up --replicas 1 --agents 0 --subnet 10.88.231.0/24 --timeout 1s");
    check(&output, 1, "no replica leads");
    check(&output, 1, "still thinking");
    assert!(!installed.cluster().exists());
}

#[test]
fn folder_that_holds_other_things_is_refused_and_left_alone() {
    let installed = Installed::with(Some("exit 1"));
    std::fs::create_dir(installed.cluster()).unwrap();
    std::fs::write(installed.cluster().join("thesis.tex"), "years").unwrap();
    check(&installed.run("dev up"), 1, "holds other things");
    assert!(installed.cluster().join("thesis.tex").exists());
}

#[test]
fn missing_daemons_are_named() {
    let installed = Installed::with(None);
    let output = installed
        .sbxctl()
        .args(["dev", "up"])
        .env("PATH", installed.dir.path())
        .output()
        .unwrap();
    check(&output, 1, "no `sbxorch` beside sbxctl or on PATH");
    assert!(!installed.cluster().exists());
}

#[test]
fn verbs_without_a_cluster_say_how_to_get_one() {
    let installed = Installed::with(None);
    for line in ["dev status", "dev down", "dev kill leader", "dev heal"] {
        check(&installed.run(line), 1, "start one with `sbxctl dev up`");
    }
    check(&installed.run("get nodes"), 2, "sbxctl dev up");
}

#[test]
fn user_without_rights_is_told_so() {
    let installed = Installed::with(None);
    let output = installed
        .sbxctl()
        .args(["dev", "up"])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    check(&output, 1, "as root");
}

#[test]
fn wrong_options_are_refused_before_anything_is_made() {
    let installed = Installed::with(Some("exit 1"));
    check(&installed.run("dev up --subnet 8.8.8.0/24"), 1, "private range");
    check(&installed.run("dev up --label nonsense"), 1, "KEY=VALUE");
    check(&installed.run("dev down -o json"), 2, "no -o");
    assert!(!installed.cluster().exists());
}

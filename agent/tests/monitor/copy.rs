//! Copies into containers that run and out of them, with each runtime, against programs and trees that are hostile.

use super::ended;
use crate::fixture::Sandbox;
use agent::runtime::copy::{self, CopyFault, Direction, Task};
use nix::sys::signal::Signal;
use proto::wire::Runtime;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tree::{Folder, Policy, Target};

/// All but runsc: of its containers no file is seen from outside.
const RUNTIMES: [Runtime; 3] = [Runtime::Native, Runtime::Runc, Runtime::Crun];

/// Prepares what the test needs, says so, and stays.
fn container(script: &str, more: &str) -> String {
    let script = format!("{script}; echo there; exec sleep 600");
    format!("name: c, args: [sh, -c, {script:?}]{more}")
}

async fn started(runtime: Runtime, container: &str) -> (Sandbox, agent::runtime::monitor::Monitor) {
    let sandbox = Sandbox::new(runtime, container);
    let monitor = sandbox.launch().await;
    sandbox.said("c", "there").await;
    (sandbox, monitor)
}

fn task(sandbox: &Sandbox, direction: Direction, path: &str) -> Task {
    Task {
        monitor: sandbox.monitor_dir(),
        container: "c".to_owned(),
        direction,
        path: path.into(),
    }
}

/// Feeds `archive` to a copy, and gives what it says.
async fn run(task: &Task, archive: &[u8]) -> Result<Vec<u8>, CopyFault> {
    let program = Path::new(env!("CARGO_BIN_EXE_sbxlet"));
    let (copy, mut stdin, mut stdout) = copy::launch(program, task)?;
    let feed = async move {
        // One that has failed reads no more.
        stdin.write_all(archive).await.ok();
    };
    let mut said = Vec::new();
    let listen = async {
        stdout.read_to_end(&mut said).await.expect("read");
    };
    let (ended, (), ()) = tokio::join!(copy.ended(), feed, listen);
    ended.map(|()| said)
}

async fn copy_in(sandbox: &Sandbox, from: &Path, path: &str) -> Result<(), String> {
    let (parent, name) = (
        from.parent().expect("a parent"),
        from.file_name().expect("a name"),
    );
    let mut archive = Vec::new();
    let parent = Folder::open(parent).expect("opened");
    tree::pack(&parent, name, Path::new(name), &mut archive).expect("packed");
    let done = run(&task(sandbox, Direction::In, path), &archive).await;
    done.map(drop).map_err(|error| error.to_string())
}

async fn copy_out(sandbox: &Sandbox, path: &str, to: &Path) -> Result<(), String> {
    let done = run(&task(sandbox, Direction::Out, path), &[]).await;
    let archive = done.map_err(|error| error.to_string())?;
    let policy = Policy {
        owner: None,
        mode: 0o7777,
        links: true,
    };
    let target = Target::at(to).expect("a target");
    tree::unpack(&*archive, target, policy)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Names, modes, times and contents below `dir`.
fn listing(dir: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).expect("listed") {
            let path = entry.expect("read").path();
            let stat = path.symlink_metadata().expect("there");
            let content = match stat.is_symlink() {
                true => fs::read_link(&path)
                    .expect("read")
                    .into_os_string()
                    .into_encoded_bytes(),
                false if stat.is_dir() => Vec::new(),
                false => fs::read(&path).expect("read"),
            };
            if stat.is_dir() {
                open.push(path.clone());
            }
            let name = path.strip_prefix(dir).expect("below").to_owned();
            all.push((name, stat.mode(), stat.mtime(), content));
        }
    }
    all.sort();
    all
}

/// A folder with all that a tree has: `<temp>/tree`.
fn tree_of_all_kinds() -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().expect("a folder");
    let tree = temp.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).expect("made");
    fs::write(tree.join("a/file"), "text").expect("written");
    fs::write(
        tree.join("a/b/large"),
        (0..300_000_u32)
            .flat_map(u32::to_le_bytes)
            .take(200_000)
            .collect::<Vec<_>>(),
    )
    .expect("written");
    fs::write(tree.join("n".repeat(200)), "long").expect("written");
    symlink("/etc/hostname", tree.join("absolute")).expect("linked");
    symlink("../file", tree.join("a/b/up")).expect("linked");
    for (name, mode) in [("a/file", 0o4755), ("a/b/large", 0o600), ("a", 0o750)] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).expect("set");
    }
    (temp, tree)
}

#[tokio::test]
async fn tree_goes_in_and_comes_out_byte_for_byte() {
    let (_temp, tree) = tree_of_all_kinds();
    for runtime in RUNTIMES {
        let (sandbox, _monitor) = started(runtime, &container("true", "")).await;
        // To the root layer, `/tmp` and a volume; under its own name, and under another.
        for (path, there) in [
            ("/etc", "/etc/tree"),
            ("/tmp/", "/tmp/tree"),
            ("/v/named", "/v/named"),
        ] {
            copy_in(&sandbox, &tree, path).await.expect("copied");
            let back = tempfile::tempdir().expect("a folder");
            copy_out(&sandbox, there, back.path()).await.expect("copied");
            let name = Path::new(there).file_name().expect("a name");
            assert_eq!(
                listing(&back.path().join(name)),
                listing(&tree),
                "{runtime:?} {path}"
            );
        }
        let seen = fs::metadata(sandbox.in_volume("named/a/file")).expect("in the volume");
        assert_eq!((seen.uid(), seen.gid()), (sandbox.root(), sandbox.root()));
        let back = tempfile::tempdir().expect("a folder");
        copy_out(&sandbox, "/v/named/a/.", back.path())
            .await
            .expect("copied");
        assert_eq!(listing(back.path()), listing(&tree.join("a")));
    }
}

/// In the stream are the owners that the container sees, not those of the host.
#[tokio::test]
async fn owners_that_come_out_are_those_inside() {
    for runtime in RUNTIMES {
        let script = "echo x > /v/mine";
        let (sandbox, _monitor) = started(runtime, &container(script, "")).await;
        for (path, want) in [
            ("/v/mine", ["33", "33"]),
            ("/open/owned", ["33", "44"]),
            ("/bin/busybox", ["0", "0"]),
        ] {
            let archive = run(&task(&sandbox, Direction::Out, path), &[])
                .await
                .expect("copied");
            // Of the first header, as octal text.
            let owner = [108..115, 116..123].map(|field| {
                let text = std::str::from_utf8(&archive[field]).expect("text");
                let id = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8).expect("a number");
                id.to_string()
            });
            assert_eq!(owner, want, "{runtime:?}: {path}");
        }
    }
}

#[tokio::test]
async fn links_of_the_container_do_not_lead_out_of_it() {
    let script = "cd /v; for up in ../../../../../.. /proc/1/root /proc/self/root /proc/1/cwd; do \
                  n=$((n+1)); ln -s $up up$n; done; ln -s /etc etc; ln -s /v/file file-link";
    let marker = format!("sbx-copy-{}", std::process::id());
    let temp = tempfile::tempdir().expect("a folder");
    let file = temp.path().join(&marker);
    fs::write(&file, "x").expect("written");
    for runtime in RUNTIMES {
        let (sandbox, _monitor) = started(runtime, &container(script, "")).await;
        for (path, there) in [
            ("/v/up1/tmp", Some("/tmp")),
            ("/v/etc", Some("/etc")),
            ("/../../etc", Some("/etc")),
        ] {
            copy_in(&sandbox, &file, path).await.expect("copied");
            let back = tempfile::tempdir().expect("a folder");
            let there = format!("{}/{marker}", there.expect("inside"));
            copy_out(&sandbox, &there, back.path())
                .await
                .expect("it is inside");
        }
        for path in [
            "/v/up2/tmp",
            "/v/up3/tmp",
            "/v/up4/tmp",
            "/proc/1/root/tmp",
            "/proc/1/root/x",
        ] {
            copy_in(&sandbox, &file, path).await.expect_err("refused");
        }
        for host in ["/tmp", "/etc", "/"] {
            assert!(
                !Path::new(host).join(&marker).exists(),
                "{host} of the host was written to"
            );
        }
        // The host's own secrets are not the image's, which has none.
        let back = tempfile::tempdir().expect("a folder");
        let none = copy_out(&sandbox, "/v/up1/etc/shadow", back.path()).await;
        assert!(none.expect_err("refused").contains("No such file"));
        // A link is copied as a link, and so never read through.
        copy_out(&sandbox, "/v/etc", back.path()).await.expect("copied");
        assert_eq!(
            fs::read_link(back.path().join("etc")).expect("a link"),
            Path::new("/etc")
        );
    }
}

#[tokio::test]
async fn limits_and_mounts_of_the_container_hold() {
    let temp = tempfile::tempdir().expect("a folder");
    let (large, small) = (temp.path().join("large"), temp.path().join("small"));
    fs::write(&large, vec![1; 3 << 20]).expect("written");
    fs::write(&small, "x").expect("written");
    for runtime in RUNTIMES {
        let (sandbox, monitor) = started(runtime, &container("true", "")).await;
        for path in ["/etc", "/tmp", "/v"] {
            let full = copy_in(&sandbox, &large, path).await.expect_err("refused");
            assert!(full.contains("no room left in the container"), "{full}");
            let back = tempfile::tempdir().expect("a folder");
            let half = copy_out(&sandbox, &format!("{path}/large"), back.path()).await;
            half.expect_err("nothing is left of it");
            copy_in(&sandbox, &small, path)
                .await
                .expect("there is room for this");
        }
        for (path, why) in [
            ("/proc", "cannot"),
            ("/sys/fs", "cannot"),
            ("/none/x", "its directory must be"),
            ("/v/small/", "is no directory"),
        ] {
            let refused = copy_in(&sandbox, &small, path).await.expect_err("refused");
            assert!(refused.contains(why), "{path}: {refused}");
        }
        assert_eq!(
            monitor.state().borrow().containers[0].exit_code,
            None,
            "it runs on"
        );
    }
    let (sandbox, _monitor) = started(Runtime::Native, &container("true", ", read_only: true")).await;
    let refused = copy_in(&sandbox, &small, "/etc").await.expect_err("refused");
    assert!(refused.contains("Read-only file system"), "{refused}");
    copy_in(&sandbox, &small, "/v")
        .await
        .expect("a volume is writable");
}

/// A page of a tmpfs counts where it is first touched. The kernel charges in advance, 64 pages (`MEMCG_CHARGE_BATCH`) for
/// each processor: so much may be taken without being seen. What the start has used goes meanwhile.
#[tokio::test]
async fn what_is_copied_in_counts_in_the_sandbox() {
    const START: usize = 1 << 20;
    let processors = std::thread::available_parallelism().expect("known").get();
    let charged_before = processors * 64 * 4_096;
    let size = (8 << 20) + charged_before;
    let temp = tempfile::tempdir().expect("a folder");
    let file = temp.path().join("file");
    fs::write(&file, vec![1; size]).expect("written");
    let roomy = ", resource: {cpu: 500m, memory: 16Mi, ephemeral_storage: 512Mi}";
    let (sandbox, _monitor) = started(Runtime::Native, &container("true", roomy)).await;
    let before = sandbox.memory_used();
    copy_in(&sandbox, &file, "/tmp").await.expect("copied");
    let grown = sandbox.memory_used().saturating_sub(before);
    let least = size - charged_before - START;
    assert!(grown >= least as u64, "{grown} of {size}");
}

#[tokio::test]
async fn container_that_has_ended_has_no_files_to_copy() {
    for runtime in RUNTIMES {
        let (sandbox, monitor) = started(runtime, &container("true", "")).await;
        let temp = tempfile::tempdir().expect("a folder");
        let none = task(&sandbox, Direction::Out, "/none");
        let none = run(&none, &[]).await.expect_err("refused").to_string();
        assert!(none.contains(r#"cannot read "none": No such file"#), "{none}");
        monitor
            .signal(None, Signal::SIGKILL as i32)
            .await
            .expect("signalled");
        ended(&monitor).await;
        let over = copy_out(&sandbox, "/etc", temp.path())
            .await
            .expect_err("refused");
        assert!(over.contains("container c does not run"), "{over}");
    }
}

/// The user goes away in the middle of a copy.
#[tokio::test]
async fn copy_that_is_given_up_leaves_no_process() {
    let (sandbox, _monitor) = started(Runtime::Native, &container("true", "")).await;
    let program = Path::new(env!("CARGO_BIN_EXE_sbxlet"));
    let into = task(&sandbox, Direction::In, "/v/x");
    let (copy, mut stdin, _stdout) = copy::launch(program, &into).expect("started");
    stdin.write_all(&[0; 100]).await.expect("written");
    drop(copy);
    // A pipe whose reader is gone can't be written to.
    let gone = async {
        while stdin.write_all(&[0; 512]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("it has ended");
}

//! The agent's process, its folders, and what of its work can be seen in the kernel.

use super::leader::PATIENCE;
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// Runs a test on a thread with a network namespace of its own: what the agent does to the network, it does there.
pub(crate) fn isolated<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let run = || {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        command("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test());
    };
    let done = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

fn command(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A node without an agent; all that an agent leaves on it goes when it is dropped.
pub(crate) struct Machine {
    folder: TempDir,
    cgroup: String,
    server: String,
}

/// What of sandboxes is in the kernel and on disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    mounts: Vec<String>,
    links: Vec<String>,
    elements: Vec<String>,
    cgroups: BTreeSet<PathBuf>,
    folders: Vec<PathBuf>,
    processes: Vec<String>,
}

impl Traces {
    /// What has ended keeps its folder, with logs and status.
    pub(crate) fn is_but_for_folders(&self, other: &Self) -> bool {
        let without = |traces: &Self| {
            (
                traces.mounts.clone(),
                traces.links.clone(),
                traces.elements.clone(),
                traces.cgroups.clone(),
                traces.processes.clone(),
            )
        };
        without(self) == without(other)
    }
}

impl Machine {
    pub(crate) async fn new(server: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new()
            .prefix("sbx-node-")
            .tempdir()
            .expect("a folder");
        let machine = Self {
            folder,
            cgroup: format!("sbx-node-test-{}-{number}", std::process::id()),
            server: server.to_owned(),
        };
        machine.import_images().await;
        machine
    }

    async fn import_images(&self) {
        let archive = self.folder.path().join("images.tar");
        let images = e2e::image::stand_ins().expect("busybox-static is installed");
        let images: Vec<_> = images
            .into_iter()
            .filter(|image| image.repository == "library/alpine")
            .map(|image| {
                let built = image.build().expect("built");
                (image, built)
            })
            .collect();
        e2e::image::oci_archive(&images, fs::File::create(&archive).expect("made")).expect("written");
        let store = agent::run::open_images(&self.state(), Default::default(), Default::default());
        store.expect("opened").import(&archive).await.expect("imported");
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn sandbox(&self, uid: u64) -> PathBuf {
        self.state().join("sandboxes").join(uid.to_string())
    }

    pub(crate) fn start(&self) -> Running {
        let mut log = fs::File::options();
        log.create(true).append(true);
        let log = log.open(self.folder.path().join("log")).expect("a log");
        let agent = Command::new(env!("CARGO_BIN_EXE_sbxlet"))
            .args(["--node-id", "n1", "--advertise-ip", "127.0.0.1", "--insecure"])
            .args([
                "--server",
                &self.server,
                "--cgroup-parent",
                &format!("/{}", self.cgroup),
            ])
            .arg("--state-dir")
            .arg(self.state())
            .args(["--log", "info,agent=debug"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Running(agent.expect("the agent starts"))
    }

    /// What another program may do that manages the machine's firewall.
    pub(crate) fn flush_firewall(&self) {
        command("nft", &["flush", "ruleset"]);
    }

    /// What is there now.
    pub(crate) async fn traces(&self) -> Traces {
        let look = Look {
            state: self.state(),
            cgroup: self.cgroup.clone(),
        };
        // Elsewhere, so that heartbeats are answered meanwhile; its thread has this one's network.
        tokio::task::spawn_blocking(move || look.traces())
            .await
            .expect("seen")
    }
}

/// Where traces of a machine's sandboxes are.
struct Look {
    state: PathBuf,
    cgroup: String,
}

impl Look {
    fn traces(&self) -> Traces {
        let state = self.state.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
        let table = Command::new("nft")
            .args(["list", "ruleset"])
            .output()
            .expect("nft");
        let table = String::from_utf8_lossy(&table.stdout).into_owned();
        Traces {
            mounts: lines(&mounts, |line| line.contains(&state)),
            links: lines(&command("ip", &["-o", "link"]), |line| line.contains("sbx-")),
            elements: lines(&table, |line| line.contains("elements") || line.contains("sbx-")),
            cgroups: self.cgroups(),
            folders: folders(&self.state.join("sandboxes")),
            processes: monitors(&state),
        }
    }

    fn cgroups(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let root = Path::new("/sys/fs/cgroup");
        for tree in folders(root).into_iter().chain([root.to_owned()]) {
            found.extend(folders(&tree.join(&self.cgroup)));
        }
        found
    }
}

impl Machine {
    /// Waits until the traces are those again.
    pub(crate) async fn await_traces(&self, expected: &Traces) {
        let begun = std::time::Instant::now();
        while self.traces().await != *expected {
            assert!(
                begun.elapsed() < PATIENCE,
                "{:?} are left, expected {expected:?}",
                self.traces().await
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Waits until the sandbox's monitor has ended.
    pub(crate) async fn await_monitor_gone(&self, uid: u64) {
        let dir = self.sandbox(uid).display().to_string() + "/";
        let begun = std::time::Instant::now();
        while !monitors(&dir).is_empty() {
            assert!(begun.elapsed() < PATIENCE, "the monitor of {uid} lives");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Runs a script on the `/tmp` of a container, from outside.
    pub(crate) fn in_container(&self, uid: u64, container: &str, script: &str) {
        let tmp = self
            .sandbox(uid)
            .join("containers")
            .join(container)
            .join("tmp/tmp");
        assert!(tmp.is_dir(), "{}", tmp.display());
        let script = script.replace("/tmp", &tmp.display().to_string());
        command("sh", &["-c", &script]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            for line in tail.iter().rev() {
                eprintln!("agent: {line}");
            }
        }
        let Ok(cgroups) = agent::runtime::cgroup::Cgroups::detect() else {
            return;
        };
        let parent = Path::new("/").join(&self.cgroup);
        if let Err(error) = cgroups.kill(&parent) {
            eprintln!("{error}");
        }
        for folder in folders(&self.state().join("sandboxes")) {
            agent::runtime::namespace::remove(&folder.join("ns"));
            let _ = agent::runtime::files::remove(&folder);
        }
        let _ = cgroups.remove(&parent);
    }
}

/// The monitors of sandboxes in that folder.
fn monitors(state: &str) -> Vec<String> {
    let mut found = Vec::new();
    for process in folders(Path::new("/proc")) {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("monitor") && line.contains(state) {
            found.push(line);
        }
    }
    found
}

fn lines(text: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    text.lines()
        .filter(|line| wanted(line))
        .map(str::to_owned)
        .collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort_unstable();
    folders
}

/// An agent's process, killed when dropped.
pub(crate) struct Running(Child);

impl Running {
    /// As by the kernel for want of memory: nothing is put in order.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("it is a child");
    }
}

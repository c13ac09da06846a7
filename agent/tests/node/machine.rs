//! The agent's process, its folders, and what of its work can be seen in the kernel.

use super::leader::PATIENCE;
use super::watched::{WAITING, Watched};
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
    /// Network namespaces that anything of this one leads to.
    namespaces: Vec<String>,
    elements: Vec<String>,
    cgroups: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    processes: Vec<String>,
}

impl Traces {
    /// What has ended keeps its folder, with logs and status.
    pub(crate) fn is_but_for_files(&self, other: &Self) -> bool {
        let without = |traces: &Self| {
            (
                traces.mounts.clone(),
                traces.links.clone(),
                traces.namespaces.clone(),
                traces.elements.clone(),
                traces.cgroups.clone(),
                traces.processes.clone(),
            )
        };
        without(self) == without(other)
    }
}

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pid: u32,
    program: PathBuf,
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Machine {
    pub(crate) async fn new(server: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("sbx-node-").tempdir();
        Self::of(folder.expect("a folder"), server).await
    }

    /// With all that it has on disk within `parent`.
    pub(crate) async fn within(parent: &Path, server: &str) -> Self {
        Self::of(tempfile::tempdir_in(parent).expect("a folder"), server).await
    }

    async fn of(folder: TempDir, server: &str) -> Self {
        let machine = Self::bare(folder, server);
        machine.import_images().await;
        machine
    }

    /// It has to pull what it runs.
    pub(crate) fn without_images(server: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("sbx-node-").tempdir();
        Self::bare(folder.expect("a folder"), server)
    }

    fn bare(folder: TempDir, server: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            folder,
            cgroup: format!("sbx-node-test-{}-{number}", std::process::id()),
            server: server.to_owned(),
        }
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

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn sandbox(&self, uid: u64) -> PathBuf {
        self.state().join("sandboxes").join(uid.to_string())
    }

    pub(crate) fn start(&self) -> Running {
        self.start_with(|_| {})
    }

    /// With more arguments, or in other surroundings.
    pub(crate) fn start_with(&self, adjust: impl FnOnce(&mut Command)) -> Running {
        let mut agent = self.agent(&[]);
        adjust(&mut agent);
        Running(agent.spawn().expect("the agent starts"))
    }

    /// As the last argument of another program.
    pub(crate) fn start_behind(&self, words: &[&str]) -> Running {
        Running(self.agent(words).spawn().expect("the agent starts"))
    }

    /// With its system calls watched. Finds no runtimes but its own, which makes it start sooner.
    pub(crate) async fn start_watched(&self) -> Watched {
        let mut agent = self.agent(&WAITING);
        agent.env("PATH", "/nonexistent");
        Watched::start(agent).await
    }

    /// The agent, with the words before that start it, and with its log in the machine's folder.
    fn agent(&self, before: &[&str]) -> Command {
        let mut log = fs::File::options();
        log.create(true).append(true);
        let log = log.open(self.folder.path().join("log")).expect("a log");
        let mut words = before.iter().chain([&env!("CARGO_BIN_EXE_sbxlet")]);
        let mut agent = Command::new(words.next().expect("there is one"));
        agent
            .args(words)
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
            .stderr(log);
        agent
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
            namespaces: lines(&command("ip", &["netns", "list-id"]), |_| true),
            elements: lines(&table, |line| line.contains("elements") || line.contains("sbx-")),
            cgroups: self.cgroups(),
            files: files(&self.state),
            processes: monitors(&state),
        }
    }

    fn cgroups(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let root = Path::new("/sys/fs/cgroup");
        for tree in folders(root).into_iter().chain([root.to_owned()]) {
            let mut below = folders(&tree.join(&self.cgroup));
            while let Some(group) = below.pop() {
                below.extend(folders(&group));
                found.insert(group);
            }
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

    /// All processes of a sandbox.
    pub(crate) fn processes_of(&self, uid: u64) -> Vec<Process> {
        self.processes_in(&uid.to_string()).into_iter().collect()
    }

    /// The processes of a sandbox's containers.
    pub(crate) fn processes(&self, uid: u64) -> BTreeSet<Process> {
        self.processes_in(&format!("{uid}/c-"))
    }

    /// Those in groups whose names begin so, below that of the agent.
    fn processes_in(&self, groups: &str) -> BTreeSet<Process> {
        let group = format!("/{}/{groups}", self.cgroup);
        let all = folders(Path::new("/proc")).into_iter().filter_map(|process| {
            let pid = process.file_name()?.to_str()?.parse().ok()?;
            let groups = fs::read_to_string(process.join("cgroup")).ok()?;
            let program = fs::read_link(process.join("exe")).ok()?;
            groups.contains(&group).then_some(Process { pid, program })
        });
        all.collect()
    }

    /// Waits until what an agent has left behind of a sandbox does nothing by itself any more: there is no monitor,
    /// or it has started the program of the container; that is given then.
    pub(crate) async fn settled(&self, uid: u64) -> Option<Process> {
        let dir = self.sandbox(uid).display().to_string() + "/";
        let begun = std::time::Instant::now();
        loop {
            let mut processes = self.processes(uid).into_iter();
            if let Some(of_image) = processes.find(|process| process.program.ends_with("busybox")) {
                return Some(of_image);
            }
            if monitors(&dir).is_empty() {
                return None;
            }
            assert!(begun.elapsed() < PATIENCE, "the monitor of {uid} starts nothing");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// What there is of images that are not whole.
    pub(crate) fn halves_of_images(&self) -> Vec<PathBuf> {
        let incoming = fs::read_dir(self.state().join("images/incoming")).expect("a folder");
        incoming.flatten().map(|entry| entry.path()).collect()
    }

    /// Waits until an agent has written this into its log.
    pub(crate) async fn says(&self, words: &str) {
        let begun = std::time::Instant::now();
        let read = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        while !read().contains(words) {
            assert!(begun.elapsed() < PATIENCE, "no agent says: {words}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Waits until the sandbox has one.
    pub(crate) async fn await_monitor(&self, uid: u64) {
        let begun = std::time::Instant::now();
        while self.monitor(uid).is_none() {
            assert!(begun.elapsed() < PATIENCE, "{uid} has no monitor");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn kill_monitor(&self, uid: u64) {
        let pid = self.monitor(uid).expect("it has a monitor");
        command("kill", &["-KILL", &pid]);
    }

    /// The first process in the monitor's group: it is older than what it starts.
    fn monitor(&self, uid: u64) -> Option<String> {
        let root = Path::new("/sys/fs/cgroup");
        let below = format!("{}/{uid}/monitor/cgroup.procs", self.cgroup);
        let trees = folders(root).into_iter().chain([root.to_owned()]);
        let mut processes = trees.filter_map(|tree| fs::read_to_string(tree.join(&below)).ok());
        processes.find_map(|pids| pids.lines().next().map(str::to_owned))
    }

    /// What is left after a power cut is on disk.
    pub(crate) fn lose_power(&self) {
        let cgroups = agent::runtime::cgroup::Cgroups::detect().expect("cgroups");
        let parent = Path::new("/").join(&self.cgroup);
        cgroups.kill(&parent).expect("killed");
        assert!(cgroups.remove(&parent).is_empty());
        command("nft", &["flush", "ruleset"]);
        for link in command("ip", &["-o", "link"]).lines() {
            let name = link.split(": ").nth(1).and_then(|name| name.split('@').next());
            if let Some(name) = name.filter(|name| name.starts_with("sbx-")) {
                // With its namespace it may have gone in this moment.
                Command::new("ip")
                    .args(["link", "del", name])
                    .output()
                    .expect("ip");
            }
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
            .join("run/containers")
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

/// All below a folder but images, and what a heartbeat replaces.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.ends_with("images") {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path.clone());
            }
            if !path.ends_with("lease.new")
                && !path.ends_with("lease")
                && !path.ends_with("ledger")
                && !path.ends_with("ledger.new")
            {
                found.insert(path);
            }
        }
    }
    found
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort_unstable();
    folders
}

/// As is the default.
const NAMESPACES_AHEAD: usize = 16;

/// What an agent's process has of the machine.
#[derive(Debug)]
pub(crate) struct Footprint {
    /// What they are of, without the numbers of namespaces; in order.
    pub(crate) descriptors: Vec<String>,
    pub(crate) memory_kib: u64,
}

/// An agent's process, killed when dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Once the agent has made ahead all namespaces that it makes ahead.
    pub(crate) async fn footprint(&self) -> Footprint {
        let begun = std::time::Instant::now();
        loop {
            let footprint = self.footprint_now();
            let ahead = footprint.descriptors.iter().filter(|target| *target == "user:");
            if ahead.count() == NAMESPACES_AHEAD {
                return footprint;
            }
            assert!(begun.elapsed() < PATIENCE, "{footprint:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn footprint_now(&self) -> Footprint {
        let process = Path::new("/proc").join(self.pid().to_string());
        let descriptors = fs::read_dir(process.join("fd")).expect("it runs").flatten();
        let targets = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok());
        let mut descriptors: Vec<_> = targets
            .map(|target| {
                let target = target.display().to_string();
                match target.split_once('[') {
                    Some((kind @ ("net:" | "uts:" | "ipc:" | "user:"), _)) => kind.to_owned(),
                    _ => target,
                }
            })
            .collect();
        descriptors.sort_unstable();
        let status = fs::read_to_string(process.join("status")).expect("it runs");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.and_then(|memory| memory.trim().strip_suffix(" kB"));
        Footprint {
            descriptors,
            memory_kib: memory.and_then(|memory| memory.parse().ok()).expect("a number"),
        }
    }

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

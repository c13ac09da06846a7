//! On this machine's own cgroups, as root; version 2's rules also on a folder that stands for its tree.

mod unified;

use super::*;
use crate::runtime::mount::tests::{Mounts, plain};
use nix::poll::{PollFd, PollTimeout, poll};
use proto::budget::{self, TmpfsLimit};
use proto::manifest;
use proto::spec::{Manifest, SandboxSpec};
use proto::units::MIB;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// An event that must come comes within this.
const SOON_MS: u16 = 10_000;

const LIMITS: SandboxLimits = SandboxLimits {
    memory: Bytes(64 * MIB),
    pids: 100,
};

/// Half a processor, and two kinds of devices.
fn container_limits() -> ContainerLimits {
    ContainerLimits {
        memory: Bytes(1 << 20),
        pids: 10,
        cpu: CpuShare {
            shares: 1_024,
            quota: Some((50_000, 100_000)),
        },
        devices: vec![
            DeviceRule {
                major: 1,
                minor: Some(3),
            },
            DeviceRule {
                major: 136,
                minor: None,
            },
        ],
    }
}

/// A parent group of a test's own, removed with all in it however the test ends.
struct Parent {
    cgroups: Cgroups,
    path: PathBuf,
}

impl Parent {
    fn of(cgroups: Cgroups) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/sbx-test-{}-{number}", std::process::id()));
        cgroups
            .prepare_parent(&path)
            .expect("made; these tests need root");
        Self { cgroups, path }
    }

    fn new() -> Self {
        Self::of(Cgroups::detect().expect("detected"))
    }

    fn sandbox(&self) -> PathBuf {
        let path = self.path.join("7");
        self.cgroups.create(&path, &LIMITS).expect("created");
        path
    }

    /// The group's folder in every tree.
    fn folders(&self, path: &Path) -> Vec<PathBuf> {
        let roots = self.cgroups.roots();
        roots
            .iter()
            .map(|root| tree::at(root, path).expect("a path"))
            .collect()
    }

    fn populated(&self, path: &Path) -> usize {
        let count = |folder: &PathBuf| tree::processes(folder).expect("read").len();
        self.folders(path).iter().map(count).sum()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let killed = self.cgroups.kill(&self.path);
        let faults = self.cgroups.remove(&self.path);
        let is_clean = killed.is_ok() && faults.is_empty();
        assert!(is_clean || std::thread::panicking(), "{killed:?} {faults:?}");
    }
}

/// A shell in its group, which runs its script once it is told to.
struct Shell(Child);

impl Shell {
    fn start(parent: &Parent, group: &Path, script: &str) -> Self {
        let mut shell = Self::waiting(parent, group, script);
        shell.go();
        shell
    }

    fn waiting(parent: &Parent, group: &Path, script: &str) -> Self {
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        parent.cgroups.make(group).expect("made");
        parent.cgroups.add_process(group, pid).expect("added");
        Self(child)
    }

    fn go(&mut self) {
        let mut stdin = self.0.stdin.take().expect("a pipe");
        stdin.write_all(b"go\n").expect("told");
    }

    /// Waits for a line of output.
    fn says(&mut self, want: &str) {
        let mut line = vec![0; want.len()];
        let stdout = self.0.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut line).expect("read");
        assert_eq!(String::from_utf8_lossy(&line), want);
    }

    fn output(self) -> Output {
        self.0.wait_with_output().expect("ended")
    }
}

#[test]
fn created_sandbox_has_its_limits_and_goes_without_a_trace() {
    let parent = Parent::new();
    assert_eq!(parent.cgroups.children(&parent.path).expect("read"), [""; 0]);
    let path = parent.sandbox();
    parent.cgroups.create(&path, &LIMITS).expect("idempotent");
    assert_eq!(parent.cgroups.children(&parent.path).expect("read"), ["7"]);
    let files = ["memory.limit_in_bytes", "memory.max", "pids.max"];
    let limits: Vec<String> = parent
        .folders(&path)
        .iter()
        .flat_map(|folder| files.iter().filter_map(|file| tree::read(folder, file).ok()))
        .map(|text| text.trim().to_owned())
        .collect();
    assert!(
        limits.contains(&LIMITS.memory.0.to_string()) && limits.contains(&"100".to_owned()),
        "{limits:?}"
    );
    for _ in 0..2 {
        let faults = parent.cgroups.remove(&path);
        assert!(faults.is_empty(), "{faults:?}");
        assert!(parent.folders(&path).iter().all(|folder| !folder.exists()));
    }
    parent.cgroups.kill(&path).expect("nothing to kill");
}

#[test]
fn process_that_comes_late_brings_no_group_back() {
    let parent = Parent::new();
    let path = parent.sandbox();
    assert!(parent.cgroups.remove(&path).is_empty());
    let late = parent.cgroups.add_process(&of_monitor(&path), Pid::this());
    assert!(matches!(late, Err(CgroupError::Write { .. })), "{late:?}");
    assert!(parent.folders(&path).iter().all(|folder| !folder.exists()));
}

#[test]
fn process_is_counted_in_its_group() {
    let parent = Parent::new();
    let path = parent.sandbox();
    let group = of_container(&path, &"c".parse().expect("a name"));
    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done; read more";
    let mut shell = Shell::start(&parent, &group, &format!("{script} </dev/zero"));
    shell.says("done\n");
    let usage = parent.cgroups.usage(&path).expect("read");
    assert!(usage.cpu_usec > 1_000 && usage.memory_bytes > 4_096, "{usage:?}");
    assert!(usage.memory_bytes < LIMITS.memory.0, "{usage:?}");
}

#[test]
fn all_processes_of_a_group_are_killed_and_awaited() {
    let parent = Parent::new();
    let path = parent.sandbox();
    let mut shells: Vec<Shell> = ["a", "b", "monitor"]
        .map(|name| {
            Shell::start(
                &parent,
                &path.join(name),
                "sleep 1000 & echo up; trap '' TERM; wait",
            )
        })
        .into();
    for shell in &mut shells {
        shell.says("up\n");
    }
    assert!(parent.populated(&path) >= 6);
    parent.cgroups.kill(&path).expect("killed");
    assert_eq!(parent.populated(&path), 0);
    for shell in shells {
        assert_eq!(shell.output().status.signal(), Some(9));
    }
    assert_eq!(parent.cgroups.remove(&path).len(), 0);
}

#[test]
fn group_that_forks_as_fast_as_it_can_is_killed() {
    let parent = Parent::new();
    let path = parent.sandbox();
    let script = "echo up; while :; do (while :; do (:) & done) & done";
    let mut shell = Shell::start(&parent, &path.join("c-bomb"), script);
    shell.says("up\n");
    parent.cgroups.kill(&path).expect("killed");
    assert_eq!(parent.populated(&path), 0);
    assert_eq!(parent.cgroups.remove(&path).len(), 0);
}

#[test]
fn frozen_group_is_killed() {
    let parent = Parent::new();
    let path = parent.sandbox();
    let group = path.join("c-paused");
    let mut shell = Shell::start(&parent, &group, "echo up; sleep 1000");
    shell.says("up\n");
    let frozen = parent.folders(&group).into_iter().filter(|folder| {
        tree::write(folder, "freezer.state", "FROZEN").is_ok()
            || tree::write(folder, "cgroup.freeze", "1").is_ok()
    });
    assert!(frozen.count() > 0);
    parent.cgroups.kill(&path).expect("killed");
    assert_eq!(parent.populated(&path), 0);
}

#[test]
fn group_with_a_living_process_is_not_removed_and_named() {
    let parent = Parent::new();
    let path = parent.sandbox();
    let mut shell = Shell::start(&parent, &path.join("c"), "echo up; sleep 1000");
    shell.says("up\n");
    let faults = parent.cgroups.remove(&path);
    let said = faults
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        said.contains("cannot remove the cgroup") && said.contains("/7/c: "),
        "{said}"
    );
    assert!(parent.populated(&path) > 0);
}

#[test]
fn process_beyond_the_memory_limit_is_killed_and_seen() {
    let parent = Parent::new();
    let path = parent.sandbox();
    let group = path.join("c-greedy");
    let mut greedy = Shell::waiting(&parent, &group, "exec /usr/bin/tail /dev/zero");
    let mut watch = parent.cgroups.watch_oom(&group).expect("watched");
    assert_eq!(watch.kills().expect("read"), 0);
    greedy.go();
    let mut polled = [PollFd::new(watch.as_fd(), watch.interest())];
    assert_eq!(poll(&mut polled, PollTimeout::from(SOON_MS)), Ok(1));
    assert_eq!(greedy.output().status.signal(), Some(9));
    assert_eq!(watch.kills().expect("read"), 1);
    assert_eq!(parent.cgroups.oom_kills(&group).expect("read"), 1);
    assert_eq!(parent.cgroups.remove(&path).len(), 0);
    assert_eq!(watch.kills().expect("the last count"), 1);
    assert!(parent.cgroups.oom_kills(&group).is_err());
}

fn spec() -> SandboxSpec {
    let text = "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: s\nspec:\n  volumes:\n  \
                - {name: v, ephemeral_storage: 64Mi}\n  containers:\n  - {name: c, image: alpine, \
                volume_mounts: [{name: v, mount_path: /v}], resource: {cpu: 1, memory: 8Mi}}\n";
    match manifest::parse(text).expect("a manifest").remove(0) {
        Manifest::Sandbox { spec, .. } => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn volume_larger_than_the_memory_fills_up_without_an_oom_kill() {
    let (parent, mounts) = (Parent::new(), Mounts::new());
    let spec = spec();
    let volume = TmpfsLimit::of(spec.volumes[0].size);
    crate::runtime::mount::tmpfs(mounts.path(), plain(volume, 0o1777)).expect("mounted");
    let path = parent.path.join("7");
    let limits = SandboxLimits {
        // All else that the container may write to stays unused here.
        memory: Bytes(spec.containers[0].resource.memory.0 + volume.memory().0 + 2 * MIB),
        pids: 100,
    };
    assert!(budget::demand(&spec).memory > limits.memory);
    parent.cgroups.create(&path, &limits).expect("created");
    let script = format!(
        "cd {} && i=0; while true >$i; do i=$((i+1)); done 2>&1; rm 0; exec /bin/busybox dd if=/dev/zero of=full bs=64k",
        mounts.path().display()
    );
    let output = Shell::start(&parent, &path.join("c-writer"), &script).output();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("No space left on device").count(), 2, "{said}");
    assert_eq!(parent.cgroups.oom_kills(&path.join("c-writer")).expect("read"), 0);
}

#[test]
fn priming_leaves_the_process_where_it_is() {
    let own = || std::fs::read_to_string("/proc/self/cgroup").expect("read");
    let before = own();
    match &Cgroups::detect().expect("detected").trees {
        Trees::V1(v1) => v1.prime(),
        Trees::V2(v2) => v2.prime(),
        Trees::Hybrid(hybrid) => hybrid.v1.prime(),
    }
    .expect("primed");
    assert_eq!(own(), before);
}

#[test]
fn path_that_could_lead_elsewhere_is_refused() {
    let cgroups = Cgroups::detect().expect("detected");
    for path in ["", "/", "sandboxd", "/sandboxd/../other", "/."] {
        let fault = cgroups.create(Path::new(path), &LIMITS).expect_err("refused");
        assert!(matches!(fault, CgroupError::Path { .. }), "{path}: {fault}");
        assert!(cgroups.kill(Path::new(path)).is_err(), "{path}");
        assert!(!cgroups.remove(Path::new(path)).is_empty(), "{path}");
    }
}

#[test]
fn thread_that_joins_is_in_the_group_in_every_tree() {
    let parent = Parent::new();
    let sandbox = parent.sandbox();
    let group = of_monitor(&sandbox);
    // Of version 1; on version 2 all threads of a process move together, this test's own as well.
    if parent.cgroups.mode() == Mode::V2 {
        return;
    }
    let joined = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            parent.cgroups.join(&group).expect("joined");
            std::fs::read_to_string("/proc/thread-self/cgroup").expect("read")
        });
        thread.join().expect("it ends")
    });
    for controller in ["memory", "pids", "cpu", "freezer", "devices"] {
        let is_its = |line: &&str| {
            let controllers = line.split(':').nth(1).unwrap_or_default();
            controllers.split(',').any(|c| c == controller)
        };
        let line = joined.lines().find(is_its).expect("a tree");
        assert!(line.ends_with(&group.display().to_string()), "{line}");
    }
}

/// A fork bomb with a tenth of a processor was still dying after two minutes: each of its processes had to wait for its
/// share of that to end.
#[test]
fn processes_without_cpu_time_end_when_they_are_killed() {
    let parent = Parent::new();
    let group = parent.sandbox().join("c-slow");
    let script = "i=0; while [ $i -lt 90 ]; do (while :; do :; done) & i=$((i + 1)); done; echo up; wait";
    let mut shell = Shell::start(&parent, &group, script);
    shell.says("up\n");
    // A thousandth of a processor.
    parent
        .cgroups
        .limit_cpu(&group, 1_000, 1_000_000)
        .expect("limited");
    parent.cgroups.kill(&parent.path).expect("killed");
    assert_eq!(parent.populated(&parent.path), 0);
    assert_eq!(shell.output().status.signal(), Some(9));
}

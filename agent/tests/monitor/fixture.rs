//! A sandbox of real parts around a monitor: folder, overlays, namespaces and cgroups; only the network and the
//! images are left out. All of it goes when it is dropped.

use agent::runtime::bundle::{self, BundleInput, Namespaces, Sources, available_capabilities};
use agent::runtime::cgroup::{self, Cgroups, SandboxLimits};
use agent::runtime::files::{self, ContainerFiles, SandboxFiles};
use agent::runtime::image::ImageConfig;
use agent::runtime::monitor::{self, Launch, Monitor};
use agent::runtime::namespace;
use agent::runtime::user::User;
use proto::budget;
use proto::spec::{Container, Manifest, SandboxSpec};
use proto::units::Bytes;
use proto::wire::{self, MonitorState};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Longer than anything takes on a machine under heavy load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Of the sandboxes' own end; the tests' programs end at once or never.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

const COMMANDS: [&str; 17] = [
    "cat", "dd", "echo", "false", "grep", "head", "id", "kill", "ln", "ls", "mount", "sh", "sleep", "tail",
    "touch", "true", "yes",
];

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Sandbox {
    pub folder: TempDir,
    pub spec: wire::MonitorSpec,
    pub files: SandboxFiles,
    pub cgroup: PathBuf,
    parent: PathBuf,
    cgroups: Cgroups,
}

impl Sandbox {
    /// `containers` are those of a manifest, as a list of YAML maps without names' `resource`.
    pub(crate) fn new(runtime: wire::Runtime, containers: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let folder = tempfile::tempdir().expect("a folder");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = PathBuf::from(format!("/sbx-monitor-test-{}-{number}", std::process::id()));
        let cgroup = parent.join("7");
        let cgroups = Cgroups::detect().expect("cgroups");
        let sandbox = parse(containers);
        let dir = folder.path().join("box");
        // From here on a panic cleans up.
        let mut made = Self {
            files: SandboxFiles {
                dir: dir.clone(),
                volumes: Default::default(),
                hosts: PathBuf::new(),
                host_name: PathBuf::new(),
                resolv_conf: PathBuf::new(),
            },
            folder,
            spec: wire::MonitorSpec {
                uid: 7,
                cgroup: cgroup.display().to_string(),
                runtime: runtime.into(),
                grace_ms: GRACE.as_millis() as u64,
                ..Default::default()
            },
            cgroup: cgroup.clone(),
            parent: parent.clone(),
            cgroups,
        };
        made.prepare(&sandbox);
        made
    }

    fn prepare(&mut self, sandbox: &SandboxSpec) {
        let layer = self.folder.path().join("layer");
        make_layer(&layer);
        std::fs::create_dir_all(&self.files.dir).expect("made");
        let address = Ipv4Addr::new(10, 89, 0, 7);
        self.files = files::prepare_sandbox(&self.files.dir, sandbox, "box", address, "").expect("prepared");
        let pins = namespace::create(&self.ns(), "box").expect("namespaces; these tests need root");
        self.cgroups.prepare_parent(&self.parent).expect("a cgroup");
        let limits = SandboxLimits {
            memory: Bytes(1 << 30),
            pids: 512,
        };
        self.cgroups.create(&self.cgroup, &limits).expect("a cgroup");
        for container in &sandbox.containers {
            let layers = [layer.clone()];
            let own = files::prepare_container(&self.files, sandbox, container, &layers).expect("prepared");
            let cgroup = cgroup::of_container(&self.cgroup, &container.name);
            self.render(sandbox, container, &own, &pins, &cgroup);
            self.spec.containers.push(wire::MonitoredContainer {
                name: container.name.to_string(),
                bundle: own.bundle.display().to_string(),
                cgroup: cgroup.display().to_string(),
                logs: own.logs.display().to_string(),
            });
        }
    }

    fn render(
        &self,
        sandbox: &SandboxSpec,
        container: &Container,
        own: &ContainerFiles,
        pins: &namespace::Pins,
        cgroup: &Path,
    ) {
        let rendered = bundle::render(&BundleInput {
            container,
            image: &ImageConfig::default(),
            user: &User {
                uid: 33,
                gid: 33,
                groups: vec![44],
                home: "/".to_owned(),
            },
            budget: &budget::container(sandbox, container),
            hostname: "box",
            namespaces: Namespaces {
                net: &pins.net,
                uts: &pins.uts,
                ipc: &pins.ipc,
            },
            cgroup: bundle::Cgroup {
                path: cgroup,
                namespace: true,
                swap: self.cgroups.swap_accounted(),
            },
            sources: Sources {
                rootfs: &own.rootfs,
                tmp: &own.tmp,
                shm: &own.shm,
                tmpfs: &own.tmpfs,
                volumes: &self.files.volumes,
                hosts: &self.files.hosts,
                host_name: &self.files.host_name,
                resolv_conf: &self.files.resolv_conf,
            },
            local_seccomp: None,
            available: &available_capabilities().expect("read"),
            apparmor: false,
            open_files: 1_024,
        });
        let config = own.bundle.join("config.json");
        rendered.expect("rendered").save(config).expect("saved");
    }

    fn ns(&self) -> PathBuf {
        self.folder.path().join("box/ns")
    }

    pub(crate) fn monitor_dir(&self) -> PathBuf {
        self.files.dir.join("monitor")
    }

    pub(crate) async fn launch(&self) -> Monitor {
        let launched = monitor::launch(Launch {
            dir: self.monitor_dir(),
            spec: self.spec.clone(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_sbxlet")),
        });
        launched.await.expect("launched")
    }

    pub(crate) async fn attach(&self) -> Monitor {
        let attached = monitor::attach(&self.monitor_dir()).await;
        attached.expect("attached").expect("it was launched")
    }

    /// On the host, in the volume `v`.
    pub(crate) fn in_volume(&self, name: &str) -> PathBuf {
        let volume = self.files.volumes.values().next().expect("one volume");
        volume.join(name)
    }

    /// The first line that a container writes to the FIFO `name` of the volume.
    pub(crate) async fn hear(&self, name: &str) -> String {
        // Opened for both, or it would have ended before a container has opened it.
        let mut options = tokio::net::unix::pipe::OpenOptions::new();
        let fifo = options.read_write(true).open_receiver(self.in_volume(name));
        let mut fifo = BufReader::new(fifo.expect("a FIFO"));
        let mut line = String::new();
        let heard = tokio::time::timeout(PATIENCE, fifo.read_line(&mut line)).await;
        heard.expect("heard in time").expect("read");
        line
    }

    pub(crate) fn make_fifo(&self, name: &str) {
        let path = self.in_volume(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("made");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, open).expect("opened");
    }

    /// The text of a container's log lines on one stream, in order, over all files.
    pub(crate) fn logged(&self, container: &str, stream: &str) -> Vec<String> {
        let tag = format!(" {stream} ");
        let mut lines = Vec::new();
        for path in self.log_files(container) {
            let text = String::from_utf8_lossy(&std::fs::read(path).expect("read")).into_owned();
            let of_stream = text.lines().filter_map(|line| line.split_once(&tag));
            lines.extend(of_stream.map(|(_, rest)| rest[2..].to_owned()));
        }
        lines
    }

    /// Oldest first.
    pub(crate) fn log_files(&self, container: &str) -> Vec<PathBuf> {
        let folder = self.files.dir.join("logs").join(container);
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .expect("a folder of logs")
            .map(|entry| entry.expect("read").path())
            .collect();
        files.sort();
        files.reverse();
        files
    }

    /// By all of it together, tmpfs included.
    pub(crate) fn memory_used(&self) -> u64 {
        self.cgroups.usage(&self.cgroup).expect("read").memory_bytes
    }

    /// What a monitor that has ended must not have left.
    #[track_caller]
    pub(crate) fn assert_nothing_is_left(&self, last: &MonitorState) {
        let groups = self.cgroups.children(&self.cgroup).expect("read");
        assert!(
            groups.iter().all(|group| group == "monitor"),
            "cgroups: {groups:?}"
        );
        let runtime = self.monitor_dir().join("runtime");
        assert!(
            !runtime.exists(),
            "{:?}",
            std::fs::read_dir(&runtime).map(Vec::from_iter)
        );
        let pid = last.process.as_ref().expect("a process").pid;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!stat.contains("monitor"), "process {pid} is there: {stat}");
        // Nothing is in it any more: else this would not succeed.
        let faults = self.cgroups.remove(&self.cgroup);
        assert!(faults.is_empty(), "{faults:?}");
    }

    /// What the monitor had to say to a person.
    pub(crate) fn words(&self) -> String {
        let read = |name| std::fs::read_to_string(self.monitor_dir().join(name)).unwrap_or_default();
        format!("{}{}", read("log"), read("runtime.log"))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let mut faults: Vec<String> = Vec::new();
        faults.extend(self.cgroups.kill(&self.cgroup).err().map(|e| e.to_string()));
        faults.extend(self.cgroups.remove(&self.parent).iter().map(ToString::to_string));
        faults.extend(namespace::remove(&self.ns()).iter().map(ToString::to_string));
        faults.extend(files::release(&self.files.dir).iter().map(ToString::to_string));
        if std::thread::panicking() {
            eprintln!("the monitor said:\n{}", self.words());
        }
        assert!(faults.is_empty() || std::thread::panicking(), "{faults:?}");
    }
}

fn parse(containers: &str) -> SandboxSpec {
    let mut text = String::from(
        "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: s\nspec:\n  \
         volumes: [{name: v, ephemeral_storage: 1Mi}]\n  containers:\n",
    );
    for container in containers.lines().map(str::trim).filter(|line| !line.is_empty()) {
        text += &format!(
            "  - {{image: i, resource: {{cpu: 500m, memory: 16Mi, ephemeral_storage: 1Mi}}, \
             volume_mounts: [{{name: v, mount_path: /v}}], {container}}}\n"
        );
    }
    match proto::manifest::parse(&text).expect("a manifest").remove(0) {
        Manifest::Sandbox { spec, .. } => spec,
        other => panic!("{other:?}"),
    }
}

fn make_layer(layer: &Path) {
    let bin = layer.join("bin");
    for folder in [&bin, &layer.join("etc")] {
        std::fs::create_dir_all(folder).expect("made");
    }
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for command in COMMANDS {
        symlink("busybox", bin.join(command)).expect("linked");
    }
    std::fs::write(bin.join("broken"), "no program").expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bin.join("broken"), executable).expect("set");
}

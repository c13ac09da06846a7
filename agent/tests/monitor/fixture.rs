//! A sandbox of real parts around a monitor: folder, overlays, namespaces and cgroups; only the network and the
//! images are left out. All of it goes when it is dropped.

use agent::runtime::bundle::{
    self, BundleInput, InstanceInput, Membership, Namespaces, Sources, available_capabilities,
};
use agent::runtime::cgroup::{self, Cgroups, SandboxLimits};
use agent::runtime::files::{self, ContainerFiles, Etc, SandboxFiles};
use agent::runtime::image::ImageConfig;
use agent::runtime::logs::{self, Query, Source};
use agent::runtime::monitor::{self, Launch, Monitor, Nursery};
use agent::runtime::seccomp::Filters;
use agent::runtime::user::User;
use agent::runtime::user_namespace::{IDS, IdRange, UserNamespace, root_of, takes_user_namespace};
use agent::runtime::{namespace, process};
use futures::StreamExt;
use proto::budget;
use proto::spec::{Container, Manifest, Runtime, SandboxSpec};
use proto::units::Bytes;
use proto::wire::{self, MonitorState};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Longer than anything takes on a machine under heavy load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Of the sandboxes' own end; the tests' programs end at once or never.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

const COMMANDS: [&str; 23] = [
    "cat", "dd", "echo", "false", "grep", "head", "hostname", "id", "kill", "ln", "ls", "mkfifo", "mount",
    "rm", "sh", "sleep", "stat", "stty", "tail", "touch", "true", "tty", "yes",
];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// `native` always is. Tells it once of each that is not: a test that leaves something out must not look whole.
pub(crate) fn is_installed(runtime: wire::Runtime) -> bool {
    static TOLD: Once = Once::new();
    let program = match runtime {
        wire::Runtime::Unspecified | wire::Runtime::Native => return true,
        wire::Runtime::Runc => "runc",
        wire::Runtime::Crun => "crun",
        wire::Runtime::Runsc => "runsc",
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    if !is_there {
        // Past the capture of a test's output.
        let line = format!("NOT RUN with {program}: it is not installed\n");
        TOLD.call_once(|| std::io::stderr().write_all(line.as_bytes()).expect("stderr"));
    }
    is_there
}

pub(crate) struct Sandbox {
    pub folder: TempDir,
    pub spec: wire::MonitorSpec,
    pub files: SandboxFiles,
    pub cgroup: PathBuf,
    parent: PathBuf,
    cgroups: Cgroups,
    /// Of the containers' processes.
    user: u32,
}

impl Sandbox {
    /// `containers` are those of a manifest, as a list of YAML maps without names' `resource`.
    pub(crate) fn new(runtime: wire::Runtime, containers: &str) -> Self {
        Self::of_user(33, runtime, containers)
    }

    /// Whose containers run as this user.
    pub(crate) fn of_user(user: u32, runtime: wire::Runtime, containers: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let folder = tempfile::tempdir().expect("a folder");
        set_mode(folder.path(), 0o711);
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
                run: dir.clone(),
                volumes: Default::default(),
                hosts: PathBuf::new(),
                host_name: PathBuf::new(),
                resolv_conf: PathBuf::new(),
                user_namespace: None,
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
            user,
        };
        made.prepare(&sandbox);
        made
    }

    fn prepare(&mut self, sandbox: &SandboxSpec) {
        let layer = self.folder.path().join("layer");
        make_layer(&layer);
        std::fs::create_dir_all(&self.files.dir).expect("made");
        let ids = takes_user_namespace(runtime_of(&self.spec)).then(next_ids);
        let pins = namespace::create(&self.ns(), "box", ids).expect("namespaces; these tests need root");
        let etc = Etc {
            hostname: "box",
            ip: Ipv4Addr::new(10, 89, 0, 7),
            resolv_conf: "",
        };
        let user = ids.map(|ids| UserNamespace {
            path: pins.user.clone(),
            ids,
        });
        self.files = files::prepare_sandbox(&self.files.dir, sandbox, etc, user).expect("prepared");
        self.spec.root_id = self.root();
        self.cgroups.prepare_parent(&self.parent).expect("a cgroup");
        let limits = SandboxLimits {
            memory: Bytes(1 << 30),
            pids: 32_768,
        };
        self.cgroups.create(&self.cgroup, &limits).expect("a cgroup");
        if self.spec.runtime() == wire::Runtime::Runsc {
            self.render_instance(sandbox, &pins);
        }
        for container in &sandbox.containers {
            let layers = [layer.clone()];
            let own = files::prepare_container(&self.files, sandbox, container, &layers).expect("prepared");
            let cgroup = match self.spec.instance {
                Some(_) => cgroup::of_instance(&self.cgroup),
                None => cgroup::of_container(&self.cgroup, &container.name),
            };
            self.render(sandbox, container, &own, &pins, &cgroup);
            self.spec.containers.push(wire::MonitoredContainer {
                name: container.name.to_string(),
                bundle: own.bundle.display().to_string(),
                cgroup: cgroup.display().to_string(),
                logs: own.logs.display().to_string(),
                ..Default::default()
            });
        }
    }

    fn render_instance(&mut self, sandbox: &SandboxSpec, pins: &namespace::Pins) {
        let own = files::prepare_instance(&self.files).expect("prepared");
        let rendered = bundle::render_instance(&InstanceInput {
            spec: sandbox,
            hostname: "box",
            namespaces: namespaces(pins, None),
            cgroup: bundle::Cgroup {
                path: &cgroup::of_instance(&self.cgroup),
                namespace: true,
                swap: self.cgroups.swap_accounted(),
                quota: true,
            },
            rootfs: &own.rootfs,
            program: files::IDLE,
        });
        let config = own.bundle.join("config.json");
        rendered.expect("rendered").save(config).expect("saved");
        self.spec.instance = Some(wire::MonitoredInstance {
            bundle: own.bundle.display().to_string(),
            platform: "systrap".to_owned(),
        });
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
                uid: self.user,
                gid: self.user,
                groups: vec![44],
                home: "/".to_owned(),
            },
            budget: &budget::container(sandbox, container),
            hostname: "box",
            namespaces: namespaces(pins, self.files.user_namespace.as_ref()),
            cgroup: bundle::Cgroup {
                path: cgroup,
                namespace: true,
                swap: self.cgroups.swap_accounted(),
                quota: true,
            },
            instance: self.spec.instance.as_ref().map(|_| Membership {
                holder: process::INSTANCE,
                containers: sandbox.containers.len(),
            }),
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
            sets_limits: process::sets_limits(
                runtime_of(&self.spec),
                &available_capabilities().expect("read"),
                self.files.user_namespace.is_some(),
            ),
        });
        let rendered = rendered.expect("rendered");
        rendered.save(own.bundle.join("config.json")).expect("saved");
        let filters = Filters::default();
        filters.write(&rendered, &own.bundle).expect("a filter");
    }

    /// Who root inside is on the host.
    pub(crate) fn root(&self) -> u32 {
        root_of(self.files.user_namespace.as_ref())
    }

    fn ns(&self) -> PathBuf {
        self.folder.path().join("box/ns")
    }

    pub(crate) fn monitor_dir(&self) -> PathBuf {
        self.files.dir.join("monitor")
    }

    pub(crate) async fn launch(&self) -> Monitor {
        self.launch_from(nursery()).await
    }

    pub(crate) async fn launch_from(&self, nursery: Arc<Nursery>) -> Monitor {
        let launched = monitor::launch(Launch {
            dir: self.monitor_dir(),
            spec: self.spec.clone(),
            nursery,
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

    /// Waits until a container has written the line.
    pub(crate) async fn said(&self, container: &str, line: &str) {
        let source = Source {
            container: container.parse().expect("a name"),
            dir: self.files.dir.join("logs").join(container),
        };
        let query = Query {
            follow: true,
            ..Query::default()
        };
        let lines = logs::read(vec![source], query, CancellationToken::new());
        let mut lines = std::pin::pin!(lines);
        let found = async {
            while let Some(next) = lines.next().await {
                let lines = next.expect("read");
                if lines.iter().any(|said| said.text == line.as_bytes()) {
                    return;
                }
            }
            panic!("{container} has not said {line:?}");
        };
        tokio::time::timeout(PATIENCE, found).await.expect("said in time");
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

    /// As the host numbers them.
    pub(crate) fn processes(&self, container: usize) -> Vec<i32> {
        let group = Path::new(&self.spec.containers[container].cgroup);
        let processes = self.cgroups.processes(group).expect("a cgroup");
        processes.into_iter().map(nix::unistd::Pid::as_raw).collect()
    }

    /// Cpu time of the group that limits the container.
    pub(crate) fn cpu_time(&self, container: usize) -> Duration {
        let group = Path::new(&self.spec.containers[container].cgroup);
        Duration::from_micros(self.cgroups.usage(group).expect("a cgroup").cpu_usec)
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
        let null = std::fs::metadata("/dev/null").expect("there");
        assert_eq!(
            (null.uid(), null.mode() & 0o777),
            (0, 0o666),
            "the host's /dev/null"
        );
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

fn namespaces<'a>(pins: &'a namespace::Pins, user: Option<&'a UserNamespace>) -> Namespaces<'a> {
    Namespaces {
        net: &pins.net,
        uts: &pins.uts,
        ipc: &pins.ipc,
        user,
    }
}

/// Of a test of its own, so that what is used up per user is not another one's.
fn next_ids() -> IdRange {
    const FIRST: u32 = 1 << 29;
    let number = NEXT.load(Ordering::Relaxed);
    IdRange::from(FIRST + number * IDS).expect("a range")
}

fn runtime_of(spec: &wire::MonitorSpec) -> Runtime {
    match spec.runtime() {
        wire::Runtime::Unspecified | wire::Runtime::Native => Runtime::Native,
        wire::Runtime::Runc => Runtime::Runc,
        wire::Runtime::Crun => Runtime::Crun,
        wire::Runtime::Runsc => Runtime::Runsc,
    }
}

/// One for all tests, as an agent has one for all sandboxes.
pub(crate) fn nursery() -> Arc<Nursery> {
    static NURSERY: OnceLock<Arc<Nursery>> = OnceLock::new();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_sbxlet"));
    NURSERY.get_or_init(|| Arc::new(Nursery::of(program))).clone()
}

fn parse(containers: &str) -> SandboxSpec {
    let mut text = String::from(
        "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: s\nspec:\n  \
         volumes: [{name: v, ephemeral_storage: 1Mi}]\n  containers:\n",
    );
    for container in containers.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // What a line has itself counts.
        let defaults = [
            ("resource:", "{cpu: 500m, memory: 16Mi, ephemeral_storage: 1Mi}"),
            ("volume_mounts:", "[{name: v, mount_path: /v}]"),
        ];
        let missing = defaults.iter().filter(|(key, _)| !container.contains(key));
        let missing: String = missing.map(|(key, value)| format!("{key} {value}, ")).collect();
        text += &format!("  - {{image: i, {missing}{container}}}\n");
    }
    match proto::manifest::parse(&text).expect("a manifest").remove(0) {
        Manifest::Sandbox { spec, .. } => spec,
        other => panic!("{other:?}"),
    }
}

fn make_layer(layer: &Path) {
    let bin = layer.join("bin");
    let open = layer.join("open");
    for folder in [&bin, &layer.join("etc"), &open] {
        std::fs::create_dir_all(folder).expect("made");
    }
    set_mode(&open, 0o1777);
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
    for command in COMMANDS {
        symlink("busybox", bin.join(command)).expect("linked");
    }
    std::fs::write(bin.join("broken"), "no program").expect("written");
    set_mode(&bin.join("broken"), 0o755);
    // `su` to root, who has no password, takes no more than being setuid.
    std::fs::write(layer.join("etc/passwd"), "root::0:0:root:/:/bin/sh\n").expect("written");
    std::fs::copy("/bin/busybox", bin.join("su")).expect("copied");
    set_mode(&bin.join("su"), 0o4755);
    std::fs::write(open.join("owned"), "").expect("written");
    chown(open.join("owned"), Some(33), Some(44)).expect("given");
}

fn set_mode(path: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, mode).expect("set");
}

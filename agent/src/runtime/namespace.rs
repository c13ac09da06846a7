//! The namespaces that a sandbox's containers share (network, uts and ipc, and the user namespace that these belong to,
//! where it has one), each kept alive by a bind mount of it onto a file, so that they outlive who made them and exist
//! before the first process.
//!
//! Owns a sandbox's `ns` folder. Never connects the network namespace to anything, see [`super::network`].
//! Called when a sandbox is made, and when it is taken down after its processes have ended.

use super::mount::{self, MountError, Tmpfs};
use super::sys::pioneer::Pioneer;
use super::user_namespace::{IDS, IdRange};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use proto::budget::TmpfsLimit;
use proto::units::Bytes;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

/// How many are made at the same time. All of them wait for the same kernel locks: more at once are slower
/// than one after the other, fewer leave a processor idle.
const CREATED_AT_ONCE: usize = 4;
/// Linux' own limit on a host name (`__NEW_UTS_LEN`).
pub const MAX_HOSTNAME: usize = 64;
/// A folder can be mounted onto itself again by an interrupted creation; more often than this is not ours.
const MAX_MOUNTS: usize = 16;
/// For the files that namespaces are pinned to.
const ROOM: Tmpfs = Tmpfs {
    limit: TmpfsLimit {
        size: Bytes(64 << 10),
        inodes: 16,
    },
    mode: 0o700,
    owner: 0,
    is_open: false,
};
/// As Docker has it inside its containers: no privilege is needed for low ports and for `ping`.
const LOW_PORTS: (&str, &str) = ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
const PING: &str = "/proc/sys/net/ipv4/ping_group_range";
/// All that there can be, where ids are the host's own.
const ALL_GROUPS: &str = "0 2147483647";

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNET
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWIPC);

/// Where the namespaces of a sandbox are pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    pub net: PathBuf,
    pub uts: PathBuf,
    pub ipc: PathBuf,
    /// Not there where the sandbox's ids are the host's own.
    pub user: PathBuf,
}

impl Pins {
    /// Below a sandbox's `ns` folder.
    #[must_use]
    pub fn below(dir: &Path) -> Self {
        Self {
            net: dir.join("net"),
            uts: dir.join("uts"),
            ipc: dir.join("ipc"),
            user: dir.join("user"),
        }
    }

    fn all(&self) -> [(&'static str, &Path); 4] {
        [
            ("net", &self.net),
            ("uts", &self.uts),
            ("ipc", &self.ipc),
            ("user", &self.user),
        ]
    }
}

/// Why the namespaces of a sandbox can't be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("host name `{0}` is not 1 to {MAX_HOSTNAME} bytes long")]
    Hostname(String),
    #[error("cannot {act} {path}: {source}")]
    File {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot start a thread to make namespaces on: {0}")]
    Thread(io::Error),
    #[error("cannot make a network, uts and ipc namespace: {0}")]
    Unshare(Errno),
    #[error("cannot make a user namespace: {0}")]
    Pioneer(String),
    #[error("cannot enter a namespace that was just made: {0}")]
    Enter(Errno),
    #[error("cannot set the host name `{hostname}`: {source}")]
    SetHostname { hostname: String, source: Errno },
    #[error("cannot ready the new network namespace: {0}")]
    Network(io::Error),
    #[error(transparent)]
    Room(#[from] MountError),
    #[error("cannot {act} the namespace at {path}: {source}")]
    Mount {
        act: &'static str,
        path: PathBuf,
        source: Errno,
    },
}

/// Namespaces that are no sandbox's yet, and are gone when this is dropped, also by the end of this process. `lo` is up
/// inside, there is no other link.
#[derive(Debug)]
pub struct Namespaces {
    net: File,
    uts: File,
    ipc: File,
    user: Option<File>,
    ids: Option<IdRange>,
}

impl Namespaces {
    /// With `ids`, they belong to a user namespace of these. Takes some milliseconds: call it where blocking is allowed.
    ///
    /// # Errors
    /// [`NamespaceError`]
    pub fn make(ids: Option<IdRange>) -> Result<Self, NamespaceError> {
        let _turn = Turn::take();
        on_a_thread(|| match ids {
            Some(ids) => Self::owned(ids),
            None => {
                unshare(NAMESPACES).map_err(NamespaceError::Unshare)?;
                let made = Self::of(Path::new("/proc/thread-self"), None)?;
                settle(ALL_GROUPS)?;
                Ok(made)
            }
        })
    }

    /// By a process, since a thread can't have a user namespace of its own.
    fn owned(ids: IdRange) -> Result<Self, NamespaceError> {
        let pioneer = Pioneer {
            namespaces: NAMESPACES,
            owner: ids.root(),
            mounts: &[],
        };
        let made = pioneer.explore(|pid| {
            let process = PathBuf::from(format!("/proc/{pid}"));
            map_ids(&process, ids)?;
            Self::of(&process, Some(ids))
        });
        let (made, _) = made.map_err(|error| NamespaceError::Pioneer(error.to_string()))?;
        let made = made?;
        enter(&made.net, CloneFlags::CLONE_NEWNET)?;
        settle(&format!("{} {}", ids.root(), ids.root() + (IDS - 1)))?;
        Ok(made)
    }

    /// Those that a process or thread is in.
    fn of(process: &Path, ids: Option<IdRange>) -> Result<Self, NamespaceError> {
        let open = |kind: &str| {
            let path = process.join("ns").join(kind);
            File::open(&path).map_err(file("open", &path))
        };
        Ok(Self {
            net: open("net")?,
            uts: open("uts")?,
            ipc: open("ipc")?,
            user: ids.map(|_| open("user")).transpose()?,
            ids,
        })
    }

    /// Which ids on the host those in here are; `None`: the same.
    #[must_use]
    pub fn ids(&self) -> Option<IdRange> {
        self.ids
    }

    /// Gives them to a sandbox: pins them below `dir`, its `ns` folder, which is made.
    ///
    /// # Errors
    /// [`NamespaceError`]; what is below `dir` is removed then, also where it was there before: call [`remove`] first
    /// where an earlier attempt may have been interrupted.
    pub fn pin(&self, dir: &Path, hostname: &str) -> Result<Pins, NamespaceError> {
        if hostname.is_empty() || hostname.len() > MAX_HOSTNAME {
            return Err(NamespaceError::Hostname(hostname.to_owned()));
        }
        let pins = Pins::below(dir);
        let pinned = self.name(hostname).and_then(|()| self.pin_all(dir, &pins));
        if let Err(error) = pinned {
            for failure in remove(dir) {
                tracing::warn!(%failure, "cannot undo the pinning of namespaces");
            }
            return Err(error);
        }
        Ok(pins)
    }

    fn name(&self, hostname: &str) -> Result<(), NamespaceError> {
        on_a_thread(|| {
            enter(&self.uts, CloneFlags::CLONE_NEWUTS)?;
            nix::unistd::sethostname(hostname).map_err(|source| NamespaceError::SetHostname {
                hostname: hostname.to_owned(),
                source,
            })
        })
    }

    fn pin_all(&self, dir: &Path, pins: &Pins) -> Result<(), NamespaceError> {
        let parent = dir.parent().unwrap_or(dir);
        fs::create_dir_all(parent).map_err(file("create", parent))?;
        fs::create_dir(dir).map_err(file("create", dir))?;
        // A mount of its own that shares nothing: the pins must not spread into other mount namespaces, where they
        // would keep the namespaces alive.
        mount::tmpfs(dir, ROOM)?;
        let of_all = [
            (&self.net, &pins.net),
            (&self.uts, &pins.uts),
            (&self.ipc, &pins.ipc),
        ];
        let of_user = self.user.as_ref().map(|user| (user, &pins.user));
        for (namespace, pin) in of_all.into_iter().chain(of_user) {
            File::create_new(pin).map_err(file("create", pin))?;
            let namespace = PathBuf::from(format!("/proc/self/fd/{}", namespace.as_raw_fd()));
            bind(&namespace, pin, "pin")?;
        }
        Ok(())
    }
}

/// Makes namespaces and pins them at once; see [`Namespaces`].
///
/// # Errors
/// As [`Namespaces::make`] and [`Namespaces::pin`].
pub fn create(dir: &Path, hostname: &str, ids: Option<IdRange>) -> Result<Pins, NamespaceError> {
    Namespaces::make(ids)?.pin(dir, hostname)
}

/// Removes the pins and the folder; every failure. With the last pin and process a namespace is gone, and its
/// links with it. None there is none to remove.
pub fn remove(dir: &Path) -> Vec<NamespaceError> {
    let mut failures = Vec::new();
    // All pins are below the folder's own mount and go with it.
    for _ in 0..MAX_MOUNTS {
        match umount2(dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(source) => {
                failures.push(NamespaceError::Mount {
                    act: "unmount",
                    path: dir.to_owned(),
                    source,
                });
                break;
            }
        }
    }
    let pins = Pins::below(dir);
    let files = pins.all().map(|(_, path)| (path, fs::remove_file(path)));
    for (path, removed) in files.into_iter().chain([(dir, fs::remove_dir(dir))]) {
        if let Err(source) = removed
            && source.kind() != io::ErrorKind::NotFound
        {
            failures.push(NamespaceError::File {
                act: "remove",
                path: path.to_owned(),
                source,
            });
        }
    }
    failures
}

/// Says which ids on the host those of the user namespace are that the process is in.
pub(super) fn map_ids(process: &Path, ids: IdRange) -> Result<(), NamespaceError> {
    for name in ["uid_map", "gid_map"] {
        let path = process.join(name);
        fs::write(&path, ids.map()).map_err(file("set", &path))?;
    }
    Ok(())
}

/// Readies the calling thread's network namespace; `groups` may ping, as the host numbers them.
fn settle(groups: &str) -> Result<(), NamespaceError> {
    for (sysctl, value) in [LOW_PORTS, (PING, groups)] {
        let path = Path::new(sysctl);
        fs::write(path, value).map_err(file("set", path))?;
    }
    super::network::settle().map_err(NamespaceError::Network)
}

/// The calling thread, which must end soon.
fn enter(namespace: &File, kind: CloneFlags) -> Result<(), NamespaceError> {
    setns(namespace, kind).map_err(NamespaceError::Enter)
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NamespaceError + use<> {
    let path = path.to_owned();
    move |source| NamespaceError::File { act, path, source }
}

fn bind(source: &Path, target: &Path, act: &'static str) -> Result<(), NamespaceError> {
    nix::mount::mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|source| {
        NamespaceError::Mount {
            act,
            path: target.to_owned(),
            source,
        }
    })
}

/// A namespace belongs to a thread: one that ends with the act changes nobody else's.
fn on_a_thread<T: Send>(act: impl FnOnce() -> Result<T, NamespaceError> + Send) -> Result<T, NamespaceError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn_scoped(scope, act)
            .map_err(NamespaceError::Thread)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

static TURNS: Mutex<usize> = Mutex::new(CREATED_AT_ONCE);
static TURN_BACK: Condvar = Condvar::new();

/// One of [`CREATED_AT_ONCE`], given back when dropped.
struct Turn;

impl Turn {
    fn take() -> Self {
        let free = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = TURN_BACK
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        TURN_BACK.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn ids() -> Option<IdRange> {
        IdRange::from(1 << 28)
    }

    /// As `/proc/PID/mountinfo` of this process has them, below `dir`.
    fn mounts(dir: &Path) -> usize {
        let text = fs::read_to_string("/proc/self/mountinfo").expect("read");
        let dir = dir.to_str().expect("text");
        text.lines().filter(|line| line.contains(dir)).count()
    }

    fn inode(path: impl AsRef<Path>) -> u64 {
        fs::metadata(path).expect("there; run this as root").ino()
    }

    #[test]
    fn namespaces_outlive_their_thread_and_go_without_a_trace() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("7/ns");
        let pins = create(&dir, "web", None).expect("made; run this as root");
        assert!(!pins.user.exists());
        for (kind, pin) in pins.all().into_iter().filter(|(kind, _)| *kind != "user") {
            let own = Path::new("/proc/thread-self/ns").join(kind);
            assert_ne!(inode(pin), inode(own), "{kind} is the caller's own");
        }
        let hostname = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                nix::sched::setns(File::open(&pins.uts).expect("there"), CloneFlags::CLONE_NEWUTS)
                    .expect("entered");
                nix::unistd::gethostname().expect("a name")
            });
            inside.join().expect("read")
        });
        assert_eq!(hostname, "web");
        assert!(remove(&dir).is_empty());
        assert_eq!(mounts(parent.path()), 0);
        assert!(!dir.exists());
        assert!(remove(&dir).is_empty(), "nothing is there, nothing fails");
    }

    #[test]
    fn namespaces_of_a_user_namespace_belong_to_it() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("7/ns");
        let pins = create(&dir, "web", ids()).expect("made; run this as root");
        let ask = |command: &str| {
            let mut all = std::process::Command::new("nsenter");
            for (kind, path) in pins.all() {
                all.arg(format!("--{kind}={}", path.display()));
            }
            all.args(["--setuid=0", "--setgid=0", "/bin/busybox", "sh", "-c", command]);
            let output = all.output().expect("nsenter");
            assert!(output.status.success(), "{command}: {output:?}");
            String::from_utf8(output.stdout).expect("text").trim().to_owned()
        };
        assert_eq!(ask("hostname; hostname other; hostname"), "web\nother");
        let map = ask("cat /proc/self/uid_map /proc/self/gid_map");
        let numbers: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(numbers, ["0", "268435456", "65536"].repeat(2));
        let sysctls = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";
        assert_eq!(ask(sysctls), "0\n0\t65535");
        // Root of the namespace rules over its network, and `lo` is up.
        assert!(ask("ip address add 192.0.2.1/32 dev lo && ip link").contains("lo: <LOOPBACK,UP"));
        assert!(remove(&dir).is_empty());
        assert_eq!(mounts(parent.path()), 0);
        assert!(!dir.exists());
    }

    #[test]
    fn creation_where_something_is_left_is_refused_and_undone() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("ns");
        create(&dir, "first", None).expect("made; run this as root");
        assert!(matches!(
            create(&dir, "second", None),
            Err(NamespaceError::File { .. })
        ));
        // What was half there can't be told from what is whole: all is gone.
        assert_eq!(mounts(parent.path()), 0);
        create(&dir, "third", ids()).expect("made");
        assert!(remove(&dir).is_empty());
    }

    #[test]
    fn hostnames_of_impossible_lengths_are_refused() {
        let parent = tempfile::tempdir().expect("a folder");
        for name in [String::new(), "a".repeat(MAX_HOSTNAME + 1)] {
            let refused = create(&parent.path().join("ns"), &name, None);
            assert!(matches!(refused, Err(NamespaceError::Hostname(_))));
        }
        let dir = parent.path().join("ns");
        create(&dir, &"a".repeat(MAX_HOSTNAME), None).expect("made; run this as root");
        assert!(remove(&dir).is_empty());
    }

    #[test]
    fn many_at_once_are_all_made() {
        let parent = tempfile::tempdir().expect("a folder");
        std::thread::scope(|scope| {
            for number in 0..24 {
                let dir = parent.path().join(number.to_string());
                scope.spawn(move || {
                    create(&dir, "one-of-many", ids().filter(|_| number % 2 == 0))
                        .expect("made; run this as root");
                    assert!(remove(&dir).is_empty());
                });
            }
        });
        assert_eq!(mounts(parent.path()), 0);
    }
}

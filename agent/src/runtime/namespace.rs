//! The namespaces that a sandbox's containers share (network, uts and ipc, and the user namespace that these belong to,
//! where it has one), each kept alive by a bind mount of it onto a file, so that they outlive who made them and exist
//! before the first process.
//!
//! Owns a sandbox's `ns` folder. Never connects the network namespace to anything, see [`super::network`].
//! Called when a sandbox is made, and when it is taken down after its processes have ended.

use super::sys::pioneer::Pioneer;
use super::user_namespace::{IDS, IdRange};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

/// How many are made at the same time. All of them wait for the same kernel locks: more at once are slower
/// than one after the other, fewer leave a processor idle.
const CREATED_AT_ONCE: usize = 4;
/// Linux' own limit on a host name (`__NEW_UTS_LEN`).
pub const MAX_HOSTNAME: usize = 64;
/// A folder can be mounted onto itself again by an interrupted creation; more often than this is not ours.
const MAX_MOUNTS: usize = 16;
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

    /// Those that every sandbox has, or all.
    fn needed(&self, ids: Option<IdRange>) -> impl Iterator<Item = (&'static str, &Path)> {
        self.all().into_iter().take(if ids.is_some() { 4 } else { 3 })
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
    #[error("cannot enter the namespace at {}: {source}", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("cannot set the host name `{hostname}`: {source}")]
    SetHostname { hostname: String, source: Errno },
    #[error("cannot raise `lo` in the new network namespace: {0}")]
    Loopback(io::Error),
    #[error("cannot {act} the namespace at {path}: {source}")]
    Mount {
        act: &'static str,
        path: PathBuf,
        source: Errno,
    },
}

/// Makes the namespaces and pins them below `dir`, a sandbox's `ns` folder, which is made if need be. `lo` is up
/// inside, there is no other link. With `ids`, they belong to a user namespace of these. Takes some milliseconds: call
/// it where blocking is allowed.
///
/// # Errors
/// [`NamespaceError`]; what is below `dir` is removed then, also where it was there before: call [`remove`] first
/// where an earlier attempt may have been interrupted.
pub fn create(dir: &Path, hostname: &str, ids: Option<IdRange>) -> Result<Pins, NamespaceError> {
    if hostname.is_empty() || hostname.len() > MAX_HOSTNAME {
        return Err(NamespaceError::Hostname(hostname.to_owned()));
    }
    let _turn = Turn::take();
    let pins = Pins::below(dir);
    match make(dir, &pins, hostname, ids) {
        Ok(()) => Ok(pins),
        Err(error) => {
            for failure in remove(dir) {
                tracing::warn!(%failure, "cannot undo the creation of namespaces");
            }
            Err(error)
        }
    }
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

fn make(dir: &Path, pins: &Pins, hostname: &str, ids: Option<IdRange>) -> Result<(), NamespaceError> {
    fs::create_dir_all(dir).map_err(file("create", dir))?;
    // A mount of its own that shares nothing: the pins must not spread into other mount namespaces, where they
    // would keep the namespaces alive.
    bind(dir, dir, "mount")?;
    mount(None::<&str>, dir, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).map_err(|source| {
        NamespaceError::Mount {
            act: "make private",
            path: dir.to_owned(),
            source,
        }
    })?;
    for (_, pin) in pins.needed(ids) {
        File::create_new(pin).map_err(file("create", pin))?;
    }
    on_a_thread(|| match ids {
        Some(ids) => make_owned(pins, hostname, ids),
        None => {
            unshare(NAMESPACES).map_err(NamespaceError::Unshare)?;
            settle(hostname, ALL_GROUPS)?;
            pin(Path::new("/proc/thread-self/ns"), pins, None)
        }
    })
}

/// By a process, since a thread can't have a user namespace of its own.
fn make_owned(pins: &Pins, hostname: &str, ids: IdRange) -> Result<(), NamespaceError> {
    let pioneer = Pioneer {
        namespaces: NAMESPACES,
        owner: ids.root(),
        mounts: &[],
    };
    let made = pioneer.explore(|pid| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        map_ids(&process, ids)?;
        pin(&process.join("ns"), pins, Some(ids))?;
        for (path, kind) in [
            (&pins.net, CloneFlags::CLONE_NEWNET),
            (&pins.uts, CloneFlags::CLONE_NEWUTS),
        ] {
            File::open(path)
                .and_then(|namespace| Ok(setns(namespace, kind)?))
                .map_err(|source| NamespaceError::Enter {
                    path: path.clone(),
                    source,
                })?;
        }
        settle(hostname, &format!("{} {}", ids.root(), ids.root() + (IDS - 1)))
    });
    let (done, _) = made.map_err(|error| NamespaceError::Pioneer(error.to_string()))?;
    done
}

/// Says which ids on the host those of the user namespace are that the process is in.
pub(super) fn map_ids(process: &Path, ids: IdRange) -> Result<(), NamespaceError> {
    for name in ["uid_map", "gid_map"] {
        let path = process.join(name);
        fs::write(&path, ids.map()).map_err(file("set", &path))?;
    }
    Ok(())
}

/// Readies the calling thread's namespaces; `groups` may ping, as the host numbers them.
fn settle(hostname: &str, groups: &str) -> Result<(), NamespaceError> {
    nix::unistd::sethostname(hostname).map_err(|source| NamespaceError::SetHostname {
        hostname: hostname.to_owned(),
        source,
    })?;
    for (sysctl, value) in [LOW_PORTS, (PING, groups)] {
        let path = Path::new(sysctl);
        fs::write(path, value).map_err(file("set", path))?;
    }
    super::network::raise_loopback().map_err(NamespaceError::Loopback)
}

fn pin(namespaces: &Path, pins: &Pins, ids: Option<IdRange>) -> Result<(), NamespaceError> {
    pins.needed(ids)
        .try_for_each(|(kind, pin)| bind(&namespaces.join(kind), pin, "pin"))
}

fn file(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NamespaceError + use<> {
    let path = path.to_owned();
    move |source| NamespaceError::File { act, path, source }
}

fn bind(source: &Path, target: &Path, act: &'static str) -> Result<(), NamespaceError> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|source| {
        NamespaceError::Mount {
            act,
            path: target.to_owned(),
            source,
        }
    })
}

/// A namespace belongs to a thread: one that ends with the act changes nobody else's.
fn on_a_thread(act: impl FnOnce() -> Result<(), NamespaceError> + Send) -> Result<(), NamespaceError> {
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
        for (kind, pin) in pins.needed(None) {
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

//! Root of a container with a user namespace: who it is on the host, what it may do inside, and that outside it may nothing.

use crate::exec::{order, run, start};
use crate::fixture::{PATIENCE, Sandbox};
use crate::{ended, runtimes};
use agent::runtime::monitor;
use agent::runtime::user_namespace::takes_user_namespace;
use proto::wire::{MonitorOutcome, Runtime};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const STAY: &str = r#"args: [sh, -c, "echo there; exec sleep 600"]"#;
/// Docker's.
const CAPABILITIES: &str = "00000000a80425fb";

fn with_user_namespaces() -> Vec<Runtime> {
    let takes = |runtime: &Runtime| {
        let runtime = proto::spec::Runtime::try_from(*runtime);
        runtime.is_ok_and(takes_user_namespace)
    };
    runtimes().into_iter().filter(takes).collect()
}

/// A line of `/proc/<pid>/status`, as numbers.
fn status(pid: i32, key: &str) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .expect("a line");
    line.trim_start_matches(':')
        .split_whitespace()
        .map(|number| number.parse().expect("a number"))
        .collect()
}

fn map(pid: i32, name: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it runs");
    text.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn processes_are_other_users_on_the_host_also_those_that_are_started_later() {
    for runtime in with_user_namespaces() {
        for user in [0, 33] {
            let sandbox = Sandbox::of_user(user, runtime, &format!("name: c, {STAY}"));
            let monitor = sandbox.launch().await;
            sandbox.said("c", "there").await;
            monitor.started().await;
            let mut later = start(&sandbox, order(&["sh", "-c", "echo there; exec sleep 600"]))
                .await
                .expect("accepted");
            let mut word = [0; 6];
            let said = tokio::task::spawn_blocking(move || {
                std::io::Read::read_exact(&mut later.stdout, &mut word).expect("read");
                later
            });
            let _later = tokio::time::timeout(PATIENCE, said)
                .await
                .expect("it says so")
                .expect("no panic");
            // Beside them may still be what has started the second one.
            let is_of_image = |pid: &i32| {
                let program = fs::read_link(format!("/proc/{pid}/exe"));
                program.is_ok_and(|program| program.ends_with("busybox"))
            };
            let processes: Vec<i32> = sandbox.processes(0).into_iter().filter(is_of_image).collect();
            assert_eq!(processes.len(), 2, "{runtime:?}");
            let id = sandbox.root() + user;
            for pid in processes {
                assert_eq!(status(pid, "Uid"), [id; 4], "{runtime:?}");
                assert_eq!(status(pid, "Gid"), [id; 4], "{runtime:?}");
                for name in ["uid_map", "gid_map"] {
                    let root = sandbox.root().to_string();
                    assert_eq!(map(pid, name), ["0", &*root, "65536"], "{runtime:?}");
                }
            }
        }
    }
}

/// What root does inside, each with what it says.
#[tokio::test]
async fn root_is_root_inside_and_no_more() {
    let rows: &[(&str, &str)] = &[
        ("id -u", "0"),
        ("grep CapBnd /proc/self/status | busybox cut -f2", CAPABILITIES),
        ("grep CapEff /proc/self/status | busybox cut -f2", CAPABILITIES),
        // Files of the image, of the sandbox, of the kernel's.
        ("stat -c %u:%g /bin/busybox /open /etc /", "0:0 0:0 0:0 0:0"),
        ("stat -c %u:%g /open/owned", "33:44"),
        (
            "stat -c %u:%g /v /tmp /dev/shm /etc/hosts /etc/resolv.conf",
            "0:0 0:0 0:0 0:0 0:0",
        ),
        ("stat -c %u:%g /dev /proc/self/status", "0:0 0:0"),
        ("stat -c %a /v /tmp", "1777 1777"),
        // Files that it makes and gives away.
        (
            "touch /v/made /open/made /tmp/made && stat -c %u:%g /v/made /open/made /tmp/made",
            "0:0 0:0 0:0",
        ),
        (
            "touch /v/last && busybox chown 65535:65535 /v/last && stat -c %u:%g /v/last",
            "65535:65535",
        ),
        (
            "busybox chown 65536 /v/made 2>&1 | grep -o 'Invalid argument'",
            "Invalid argument",
        ),
        (
            "echo x >> /open/owned && busybox chown 7 /open/owned && stat -c %u:%g /open/owned",
            "7:44",
        ),
        // Streams and devices; whose the node's own is, is looked at when all has ended.
        (
            "busybox chmod 0 /dev/null 2>/dev/null; busybox chmod 666 /dev/null 2>/dev/null; echo",
            "",
        ),
        ("echo again > /dev/stdout", "again"),
        ("echo x > /dev/null && head -c 3 /dev/zero | busybox wc -c", "3"),
        // What only a real root may.
        (
            "busybox mknod /tmp/disk b 1 1 2>&1 | grep -o 'Operation not permitted'",
            "Operation not permitted",
        ),
        ("mount -t tmpfs none /tmp 2>/dev/null || echo refused", "refused"),
        (
            "echo 1 2>/dev/null > /proc/sys/kernel/panic || echo refused",
            "refused",
        ),
        ("hostname other 2>/dev/null || echo refused", "refused"),
        // Its own network.
        (
            "busybox httpd -p 127.0.0.1:80 -h /open && busybox wget -qO- http://127.0.0.1/owned",
            "x",
        ),
        (
            "busybox ping -c 1 -W 5 127.0.0.1 | grep -o '1 packets received'",
            "1 packets received",
        ),
        (
            "cat /proc/sys/net/ipv4/ping_group_range | busybox tr '\\t' ' '",
            "0 65535",
        ),
        ("ulimit -c", "0"),
    ];
    let script: String = rows
        .iter()
        .map(|(command, _)| format!("echo \"$( {command} )\" | busybox tr '\\n' ' '; echo; "))
        .collect();
    for runtime in with_user_namespaces() {
        let containers = format!("name: c, args: [sh, -c, {script:?}]");
        let sandbox = Sandbox::of_user(0, runtime, &containers);
        let last = ended(&sandbox.launch().await).await;
        assert_eq!(last.outcome(), MonitorOutcome::Succeeded, "{last:?}");
        let said = sandbox.logged("c", "stdout");
        for ((command, want), said) in rows.iter().zip(&said) {
            assert_eq!(said.trim(), *want, "{runtime:?}: {command}");
        }
        assert_eq!(said.len(), rows.len(), "{runtime:?}: {said:?}");
        let owner = |name| {
            let stat = fs::metadata(sandbox.in_volume(name)).expect("in the volume");
            (stat.uid() - sandbox.root(), stat.gid() - sandbox.root())
        };
        assert_eq!(
            [owner("made"), owner("last")],
            [(0, 0), (65_535, 65_535)],
            "{runtime:?}"
        );
        sandbox.assert_nothing_is_left(&last);
    }
}

#[tokio::test]
async fn user_without_privileges_listens_low_and_gains_by_setuid_only_where_that_is_allowed() {
    let script = "id -u; echo out > /dev/stdout; echo err > /dev/stderr; \
                  busybox httpd -p 127.0.0.1:80 -h /open && echo listens; \
                  /bin/su -c 'id -u' root 2>/dev/null || echo stays";
    for (option, last) in [("false", "0"), ("true", "stays")] {
        let containers =
            format!("name: c, args: [sh, -c, {script:?}], security_opt: ['no-new-privileges:{option}']");
        for runtime in with_user_namespaces() {
            let sandbox = Sandbox::new(runtime, &containers);
            let state = ended(&sandbox.launch().await).await;
            let said = sandbox.logged("c", "stdout");
            let want = ["33", "out", "listens", last];
            assert_eq!(said, want, "{runtime:?} {option}: {state:?}");
            assert_eq!(sandbox.logged("c", "stderr"), ["err"], "{runtime:?}");
        }
    }
}

/// As if it had got out of the container's mounts, with all that root of the user namespace may.
#[tokio::test]
async fn root_that_got_out_reaches_nothing_of_the_host_nor_of_another_sandbox() {
    for runtime in with_user_namespaces() {
        let sandbox = Sandbox::of_user(0, runtime, &format!("name: c, {STAY}"));
        let other = Sandbox::of_user(0, runtime, &format!("name: c, {STAY}"));
        let (_monitor, _others) = (sandbox.launch().await, other.launch().await);
        sandbox.said("c", "there").await;
        other.said("c", "there").await;
        assert!(sandbox.root().abs_diff(other.root()) >= 65_536);
        let user = sandbox.files.dir.join("ns/user");
        let own = std::process::id();
        let neighbour = other.processes(0)[0];
        let theirs = other.files.dir.display().to_string();
        let dir = sandbox.files.dir.display().to_string();
        let secret = tempfile::NamedTempFile::new().expect("a file, of mode 0600");
        for (script, what) in [
            ("cat /etc/shadow".to_owned(), "the host's secrets"),
            (
                format!("cat {}", secret.path().display()),
                "a file of the host's root",
            ),
            ("ls /proc/1/root/".to_owned(), "by a process of the host"),
            (format!("kill -9 {own}"), "a process of the host"),
            (format!("kill -9 {neighbour}"), "a process of another sandbox"),
            (
                format!("ls /proc/{neighbour}/root/"),
                "by a process of another sandbox",
            ),
            (
                format!("ls {theirs}/containers/c/rootfs/"),
                "files of another sandbox",
            ),
            (format!("ls {theirs}/volumes/v/"), "a volume of another sandbox"),
            (format!("ls {dir}/"), "its own folder"),
            (format!("cat {dir}/monitor/spec"), "what its monitor knows"),
            (format!("touch {dir}/x"), "its own folder, to write"),
            ("touch /etc/x".to_owned(), "a folder of the host"),
            ("mknod /tmp/sbx-disk b 254 0".to_owned(), "a disk"),
            (
                "chroot / true && nsenter --mount=/proc/1/ns/mnt true".to_owned(),
                "the host's mounts",
            ),
            ("sysctl -w kernel.panic=1".to_owned(), "the kernel's settings"),
            ("chmod 0777 /dev/null".to_owned(), "a device"),
        ] {
            let output = Command::new("nsenter")
                .arg(format!("--user={}", user.display()))
                .args([
                    "--setuid=0",
                    "--setgid=0",
                    "/bin/busybox",
                    "sh",
                    "-c",
                    &format!("busybox {script}"),
                ])
                .output()
                .expect("nsenter");
            let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
            assert!(!output.status.success(), "{runtime:?}: it reaches {what}");
            let refused = [
                "permission denied",
                "operation not permitted",
                "can't open",
                "can't execute",
            ];
            assert!(
                refused.iter().any(|word| said.contains(word)),
                "{runtime:?}: {what}: {said}"
            );
        }
        assert!(!Path::new("/tmp/sbx-disk").exists());
        // And it was root there, who may do what its user namespace rules over.
        let output = Command::new("nsenter")
            .arg(format!("--user={}", user.display()))
            .args(["--setuid=0", "--setgid=0", "/bin/busybox", "sh", "-c"])
            .arg(format!("id -u; kill -9 {}", sandbox.processes(0)[0]))
            .output()
            .expect("nsenter");
        assert_eq!(
            (output.status.code(), &*output.stdout),
            (Some(0), &b"0\n"[..]),
            "{output:?}"
        );
    }
}

#[tokio::test]
async fn tmpfs_for_setuid_programs_can_be_had() {
    let script = "grep ' /t ' /proc/self/mountinfo | grep -c nosuid; grep ' /u ' /proc/self/mountinfo | grep -c nosuid";
    let containers = format!(
        "name: c, tmpfs: [{{mount_path: /t, options: [suid, exec]}}, {{mount_path: /u, options: [size=64k]}}], \
         args: [sh, -c, {script:?}]"
    );
    for runtime in with_user_namespaces() {
        let sandbox = Sandbox::new(runtime, &containers);
        ended(&sandbox.launch().await).await;
        assert_eq!(
            sandbox.logged("c", "stdout"),
            ["0", "1"],
            "{runtime:?}: {}",
            sandbox.words()
        );
    }
}

#[tokio::test]
async fn command_has_the_containers_ids_and_streams_that_it_can_open_anew() {
    for runtime in with_user_namespaces() {
        let sandbox = Sandbox::of_user(0, runtime, &format!("name: c, {STAY}"));
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        monitor.started().await;
        let script =
            "id -u; cat /proc/self/uid_map; echo again > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin";
        let (end, out, err) = run(&sandbox, order(&["sh", "-c", script]), b"in").await;
        assert_eq!((end.code, &*err), (0, "err\n"), "{runtime:?}: {end:?}");
        let words: Vec<&str> = out.split_whitespace().collect();
        let root = sandbox.root().to_string();
        assert_eq!(words, ["0", "0", &*root, "65536", "again", "in"], "{runtime:?}");
    }
}

/// A stream that the host shares with everybody was given to the sandbox once, who could have closed it to all.
#[tokio::test]
async fn device_that_a_command_gets_as_a_stream_stays_the_hosts() {
    for runtime in with_user_namespaces()
        .into_iter()
        .filter(|runtime| *runtime != Runtime::Crun)
    {
        let sandbox = Sandbox::of_user(0, runtime, &format!("name: c, {STAY}"));
        let monitor = sandbox.launch().await;
        sandbox.said("c", "there").await;
        monitor.started().await;
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .expect("opened");
        let streams = [null.as_fd(); 3];
        let mut guest = monitor::exec(&sandbox.monitor_dir(), order(&["true"]), &streams)
            .await
            .expect("accepted");
        let ended = tokio::time::timeout(PATIENCE, guest.ended()).await;
        assert_eq!(ended.expect("in time").expect("told").code, 0, "{runtime:?}");
        assert_eq!(fs::metadata("/dev/null").expect("there").uid(), 0, "{runtime:?}");
    }
}

//! A rendered spec under real `runc`, as root.

use super::{Host, spec};
use crate::runtime::bundle::available_capabilities;
use crate::runtime::image::ImageConfig;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A process whose namespaces stand for a sandbox's pins; ended when dropped.
struct Pins(Child);

impl Pins {
    fn make() -> Self {
        let mut child = Command::new("unshare")
            .args([
                "--net",
                "--uts",
                "--ipc",
                "/bin/busybox",
                "sh",
                "-c",
                "echo made; exec /bin/busybox sleep 600",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("read");
        assert_eq!(line, "made\n", "these tests need root");
        Self(child)
    }

    fn of(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.0.id()))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A container of real `runc`, removed when dropped.
struct Container {
    id: String,
    folder: TempDir,
    _pins: Pins,
}

impl Container {
    fn run(container: &str) -> (Self, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        for name in [
            "rootfs/bin",
            "rootfs/etc",
            "tmp",
            "shm",
            "tmpfs-0",
            "volumes/v",
            "etc",
        ] {
            fs::create_dir_all(root.join(name)).expect("made");
        }
        for open in ["tmp", "shm", "volumes/v"] {
            fs::set_permissions(root.join(open), fs::Permissions::from_mode(0o1777)).expect("opened");
        }
        fs::copy("/bin/busybox", root.join("rootfs/bin/busybox")).expect("busybox-static is installed");
        for file in ["hosts", "hostname", "resolv.conf"] {
            fs::write(root.join("etc").join(file), format!("{file} of the sandbox\n")).expect("written");
        }
        let pins = Pins::make();
        let mut host = Host::below(&root.display().to_string());
        host.namespaces = ["net", "uts", "ipc"].map(|kind| pins.of(kind));
        let id = root
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .trim_start_matches('.')
            .to_owned();
        host.cgroup = PathBuf::from(format!("/sbx-bundle-test-{id}"));
        host.swap = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
        host.available = available_capabilities().expect("read");
        let rendered = host
            .render(&spec(container), &ImageConfig::default())
            .expect("rendered");
        rendered.save(root.join("config.json")).expect("saved");
        let output = Command::new("runc")
            .arg("--root")
            .arg(root.join("runc"))
            .args(["run", "--bundle"])
            .arg(root)
            .arg(&id)
            .output()
            .expect("runc is installed");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (
            Self {
                id,
                folder,
                _pins: pins,
            },
            said,
        )
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let runc = Command::new("runc")
            .arg("--root")
            .arg(self.folder.path().join("runc"))
            .args(["delete", "--force", &self.id])
            .stderr(Stdio::null())
            .status();
        assert!(runc.is_ok() || std::thread::panicking(), "runc delete: {runc:?}");
    }
}

#[test]
fn real_runtime_runs_the_rendered_spec() {
    let script = "B=/bin/busybox; $B echo out; $B id -u; $B hostname; $B cat /etc/hosts; $B pwd; \
                  $B touch /data/x /tmp/x /dev/shm/x && $B echo writable; $B mount | $B grep ' /proc/sys ' | $B head -1; \
                  $B mount -t tmpfs none /mnt 2>&1; $B mkdir /made 2>&1; $B grep -E 'NoNewPrivs|Seccomp:' /proc/self/status";
    let container = format!(
        "args: [/bin/busybox, sh, -c, {script:?}], read_only: true, work_dir: /data, \
         volume_mounts: [{{name: v, mount_path: /data}}], tmpfs: [{{mount_path: /run}}]"
    );
    let (container, said) = Container::run(&container);
    for want in [
        "out\n33\nbox\nhosts of the sandbox\n/data\nwritable\n",
        "proc on /proc/sys type proc (ro",
        "Read-only file system",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(said.contains(want), "{said:?} lacks {want:?}");
    }
    assert!(
        said.contains("Operation not permitted") || said.contains("permission denied"),
        "{said:?}"
    );
    assert!(container.folder.path().join("volumes/v/x").exists());
    assert!(container.folder.path().join("shm/x").exists());
}

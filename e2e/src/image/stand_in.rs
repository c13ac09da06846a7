//! Small images that stand in for well-known ones where no registry can be reached: this machine's static
//! busybox with the names, users and folders that people expect. Each says in `/etc/os-release` what it is.

use super::{Compression, Entry, Image, Layer};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's `busybox-static` puts it here.
const BUSYBOX: &str = "/bin/busybox";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const OS_RELEASE: &str = "NAME=\"sandboxd stand-in\"\nID=sandboxd-stand-in\n";
const USERS: &str = "root:x:0:0:root:/root:/bin/sh\n\
                     daemon:x:2:2:daemon:/sbin:/sbin/nologin\n\
                     www:x:82:82:www:/www:/sbin/nologin\n\
                     nobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUPS: &str = "root:x:0:root\ndaemon:x:2:root,daemon\ntty:x:5:\nwww:x:82:\nnobody:x:65534:\n";
/// As process 1 a web server without a handler would be deaf to SIGTERM.
const WEB_SERVER: &str =
    "#!/bin/sh\nhttpd -f -p 80 -h /www &\ntrap 'kill $!; exit 0' TERM INT QUIT\nwait $!\n";
const PAGE: &str = "<!doctype html><title>It works</title><p>A stand-in web server in a sandbox.\n";

#[derive(Debug, thiserror::Error)]
pub enum StandInError {
    #[error("cannot read {path}: {source}; install busybox-static")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot ask {path} for its applets: {source}")]
    Run { path: PathBuf, source: std::io::Error },
    #[error("{path} does not tell its applets ({status}); install busybox-static")]
    Applets {
        path: PathBuf,
        status: std::process::ExitStatus,
    },
}

/// `library/alpine:3.20`, `library/busybox:1.36` and `library/nginx:1.27`, each also as `latest`.
///
/// # Errors
/// Where there is no busybox on this machine.
pub fn stand_ins() -> Result<Vec<Image>, StandInError> {
    let base = base_layer(Path::new(BUSYBOX))?;
    let image = |name: &str, version: &str| Image {
        repository: format!("library/{name}"),
        tags: vec![version.to_owned(), "latest".to_owned()],
        layers: vec![base.clone(), os_release(name, version)],
        cmd: vec!["/bin/sh".to_owned()],
        env: vec![PATH.to_owned()],
        ..Image::default()
    };
    let mut nginx = image("nginx", "1.27");
    nginx.layers.push(Layer {
        compression: Compression::Gzip,
        entries: vec![
            Entry::file("serve.sh", 0o755, WEB_SERVER),
            Entry::directory("www", 0o755),
            Entry::file("www/index.html", 0o644, PAGE),
        ],
    });
    nginx.cmd = vec!["/serve.sh".to_owned()];
    Ok(vec![image("alpine", "3.20"), image("busybox", "1.36"), nginx])
}

fn os_release(name: &str, version: &str) -> Layer {
    let text = format!(
        "{OS_RELEASE}VERSION_ID={version}\nPRETTY_NAME=\"stand-in for {name}:{version}, made of busybox\"\n"
    );
    Layer {
        compression: Compression::Zstd,
        entries: vec![
            Entry::directory("etc", 0o755),
            Entry::file("etc/os-release", 0o644, text),
        ],
    }
}

/// busybox with a link for each applet, and the skeleton of a root filesystem.
fn base_layer(busybox: &Path) -> Result<Layer, StandInError> {
    let path = || busybox.to_owned();
    let binary = std::fs::read(busybox).map_err(|source| StandInError::Read { path: path(), source })?;
    let listed = Command::new(busybox).arg("--list-full").output();
    let listed = listed.map_err(|source| StandInError::Run { path: path(), source })?;
    if !listed.status.success() {
        return Err(StandInError::Applets {
            path: path(),
            status: listed.status,
        });
    }
    let applets = String::from_utf8_lossy(&listed.stdout).into_owned();

    let folders = [
        "bin",
        "dev",
        "etc",
        "home",
        "lib",
        "mnt",
        "opt",
        "proc",
        "run",
        "sbin",
        "srv",
        "sys",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/local",
        "usr/local/bin",
        "usr/sbin",
        "var",
        "var/log",
    ];
    let mut entries: Vec<Entry> = folders.iter().map(|f| Entry::directory(f, 0o755)).collect();
    entries.push(Entry::directory("root", 0o700));
    entries.push(Entry::directory("tmp", 0o1777));
    entries.push(Entry::directory("var/tmp", 0o1777));
    entries.push(Entry::file("etc/passwd", 0o644, USERS));
    entries.push(Entry::file("etc/group", 0o644, GROUPS));
    entries.push(Entry::file("bin/busybox", 0o755, binary));
    let in_folder = |a: &&str| *a != "bin/busybox" && a.contains('/');
    entries.extend(
        applets
            .lines()
            .filter(in_folder)
            .map(|a| Entry::symlink(a, BUSYBOX)),
    );
    Ok(Layer {
        compression: Compression::Gzip,
        entries,
    })
}

//! What the container sees where: the kernel's own filesystems, its `/tmp`, volumes and a few files of `/etc`.

use super::{BundleError, BundleInput, assemble};
use oci_spec::OciSpecError;
use oci_spec::runtime::{Mount, MountBuilder};
use proto::spec::TmpfsOptions;
use std::path::Path;

/// `/dev` holds a dozen devices and links. Both limits together are 0.4 MiB of the container's overhead.
const DEV_OPTIONS: [&str; 5] = ["nosuid", "strictatime", "mode=755", "size=64k", "nr_inodes=256"];
/// Group `tty` has this number everywhere.
const DEVPTS_OPTIONS: [&str; 6] = [
    "nosuid",
    "noexec",
    "newinstance",
    "ptmxmode=0666",
    "mode=0620",
    "gid=5",
];
const CLOSED: [&str; 3] = ["nosuid", "noexec", "nodev"];
const CLOSED_READONLY: [&str; 4] = ["nosuid", "noexec", "nodev", "ro"];
/// Who does not choose a mode wants a place for everyone, as `/tmp` is.
const TMPFS_MODE: u32 = 0o1777;

/// One mount that a container asks for, or that every container gets.
struct Bind<'a> {
    source: &'a Path,
    target: &'a str,
    options: Vec<&'a str>,
}

/// The mode of a tmpfs' own directory, for who makes it.
#[must_use]
pub fn tmpfs_mode(options: &TmpfsOptions) -> u32 {
    let modes = options
        .given
        .iter()
        .rev()
        .filter_map(|option| option.strip_prefix("mode="));
    modes
        .filter_map(|octal| u32::from_str_radix(octal, 8).ok())
        .next()
        .unwrap_or(TMPFS_MODE)
}

/// Whether a tmpfs allows what binds of others forbid, setuid programs or devices, for who makes it.
#[must_use]
pub fn tmpfs_is_open(options: &TmpfsOptions) -> bool {
    let options = tmpfs_options(options);
    options.contains(&"suid") || options.contains(&"dev")
}

pub(super) fn render(input: &BundleInput<'_>) -> Result<Vec<Mount>, BundleError> {
    let mut mounts = kernel(input).map_err(assemble(input))?;
    for bind in binds(input)? {
        mounts.push(mount(bind.target, "bind", bind.source, &bind.options).map_err(assemble(input))?);
    }
    Ok(mounts)
}

fn kernel(input: &BundleInput<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let shm = [&["rbind", "rprivate", "rw"], &CLOSED[..]].concat();
    Ok(vec![
        mount("/proc", "proc", Path::new("proc"), &CLOSED)?,
        mount("/dev", "tmpfs", Path::new("tmpfs"), &DEV_OPTIONS)?,
        mount("/dev/pts", "devpts", Path::new("devpts"), &DEVPTS_OPTIONS)?,
        mount("/dev/shm", "bind", input.sources.shm, &shm)?,
        mount("/dev/mqueue", "mqueue", Path::new("mqueue"), &CLOSED)?,
        mount("/sys", "sysfs", Path::new("sysfs"), &CLOSED_READONLY)?,
        mount("/sys/fs/cgroup", "cgroup", Path::new("cgroup"), &CLOSED_READONLY)?,
    ])
}

/// All others, each behind what it lies in.
fn binds<'a>(input: &BundleInput<'a>) -> Result<Vec<Bind<'a>>, BundleError> {
    let (container, sources) = (input.container, &input.sources);
    let no_container = || container.name.clone();
    let mut binds = vec![Bind {
        source: sources.tmp,
        target: "/tmp",
        options: bound(false, &["nosuid", "nodev"]),
    }];
    for file in [
        ("/etc/hosts", sources.hosts),
        ("/etc/hostname", sources.host_name),
        ("/etc/resolv.conf", sources.resolv_conf),
    ] {
        binds.push(Bind {
            source: file.1,
            target: file.0,
            options: bound(true, &CLOSED),
        });
    }
    for (i, tmpfs) in container.tmpfs.iter().enumerate() {
        let missing = || BundleError::NoTmpfs {
            container: no_container(),
            path: tmpfs.mount_path.clone(),
        };
        let source = sources.tmpfs.get(i).ok_or_else(missing)?;
        replace(
            &mut binds,
            Bind {
                source,
                target: &tmpfs.mount_path,
                options: tmpfs_options(&tmpfs.options),
            },
        );
    }
    for volume in &container.volume_mounts {
        let missing = || BundleError::NoVolume {
            container: no_container(),
            volume: volume.name.clone(),
            path: volume.mount_path.clone(),
        };
        let source = sources.volumes.get(&volume.name).ok_or_else(missing)?;
        let options = bound(volume.read_only, &["nosuid", "nodev"]);
        replace(
            &mut binds,
            Bind {
                source,
                target: &volume.mount_path,
                options,
            },
        );
    }
    binds.sort_by(|a, b| Path::new(a.target).cmp(Path::new(b.target)));
    Ok(binds)
}

/// What the user mounts takes the place of what everyone gets there.
fn replace<'a>(binds: &mut Vec<Bind<'a>>, bind: Bind<'a>) {
    binds.retain(|other| other.target != bind.target);
    binds.push(bind);
}

fn bound<'a>(read_only: bool, flags: &[&'a str]) -> Vec<&'a str> {
    let access = if read_only { "ro" } else { "rw" };
    [&["rbind", "rprivate", access], flags].concat()
}

/// Docker's defaults, changed by what is given; the last of contradicting ones counts. Size and mode are
/// those of the directory that is bound.
fn tmpfs_options(options: &TmpfsOptions) -> Vec<&'static str> {
    let (mut access, mut suid, mut dev, mut exec) = ("rw", "nosuid", "nodev", "noexec");
    for option in &options.given {
        match option.as_str() {
            "ro" => access = "ro",
            "rw" => access = "rw",
            "suid" => suid = "suid",
            "nosuid" => suid = "nosuid",
            "dev" => dev = "dev",
            "nodev" => dev = "nodev",
            "exec" => exec = "exec",
            "noexec" => exec = "noexec",
            _ => {}
        }
    }
    vec!["rbind", "rprivate", access, suid, dev, exec]
}

fn mount(target: &str, kind: &str, source: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    MountBuilder::default()
        .destination(target)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
}

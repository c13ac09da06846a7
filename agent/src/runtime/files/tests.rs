//! On the real kernel, as root: a sandbox's folder from nothing to nothing.

use super::*;
use crate::runtime::mount::tests::{Mounts, Pinned, fill};
use proto::manifest;
use proto::spec::{Manifest, SandboxSpec};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, symlink};

fn spec(containers: &str) -> SandboxSpec {
    let text = format!(
        "apiVersion: sandboxd.o/v1\nkind: Sandbox\nid: s\nspec:\n  volumes:\n  \
         - {{name: state, ephemeral_storage: 4Mi}}\n  - {{name: other, ephemeral_storage: 1Mi}}\n  \
         containers:\n  - {{name: c, image: alpine, resource: {{cpu: 250m, memory: 64Mi, \
         ephemeral_storage: 20Mi}}, {containers}}}\n"
    );
    match manifest::parse(&text).expect("a manifest").remove(0) {
        Manifest::Sandbox { spec, .. } => spec,
        other => panic!("{other:?}"),
    }
}

/// The folder of a sandbox, and the layers of an image.
struct Box {
    mounts: Mounts,
    dir: PathBuf,
    layers: Vec<PathBuf>,
}

impl Box {
    fn new() -> Self {
        let mounts = Mounts::new();
        let layers = ["low", "high"]
            .map(|name| mounts.path().join("layers").join(name))
            .to_vec();
        for layer in &layers {
            fs::create_dir_all(layer).expect("made");
            fs::write(layer.join("file"), layer.display().to_string()).expect("written");
        }
        Self {
            dir: mounts.path().join("sandboxes/7"),
            layers,
            mounts,
        }
    }

    fn sandbox(&self, spec: &SandboxSpec) -> Result<SandboxFiles, FilesError> {
        self.sandbox_in(spec, None)
    }

    fn sandbox_in(
        &self,
        spec: &SandboxSpec,
        namespace: Option<UserNamespace>,
    ) -> Result<SandboxFiles, FilesError> {
        let etc = Etc {
            hostname: "box",
            ip: Ipv4Addr::new(10, 89, 0, 7),
            resolv_conf: "nameserver 10.0.0.1\n",
        };
        prepare_sandbox(&self.dir, spec, etc, namespace)
    }

    fn container(&self, spec: &SandboxSpec) -> Result<ContainerFiles, FilesError> {
        prepare_container(&self.sandbox(spec)?, spec, &spec.containers[0], &self.layers)
    }

    /// Names in the sandbox's folder.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.dir)
            .expect("there")
            .map(|entry| entry.expect("read").file_name().into_string().expect("a name"))
            .collect();
        names.sort();
        names
    }

    #[track_caller]
    fn check_released(&self, names: &[&str]) {
        assert_eq!(self.mounts.present(), Vec::<PathBuf>::new());
        assert_eq!(self.names(), names);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o7777
}

#[test]
fn prepared_sandbox_has_volumes_and_files_of_etc() {
    let place = Box::new();
    let files = place.sandbox(&spec("")).expect("prepared");
    let names: Vec<&str> = files.volumes.keys().map(Name::as_str).collect();
    assert_eq!(names, ["other", "state"]);
    for (volume, size) in [("other", 1), ("state", 4)] {
        let path = &files.volumes[volume];
        assert_eq!(mode(path), 0o1777);
        let (written, fault) = fill(&path.join("file"));
        assert_eq!(fault.kind(), io::ErrorKind::StorageFull);
        assert_eq!(written, size << 20, "{volume}");
    }
    for (path, want) in [
        (
            &files.hosts,
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.89.0.7\tbox\n",
        ),
        (&files.host_name, "box\n"),
        (&files.resolv_conf, "nameserver 10.0.0.1\n"),
    ] {
        assert_eq!(fs::read_to_string(path).expect("there"), want);
        assert_eq!(mode(path), 0o644);
    }
    assert_eq!(mode(&place.dir), 0o700);
}

#[test]
fn prepared_container_has_what_it_draws_on_apart() {
    let place = Box::new();
    let spec = spec("tmpfs: [{mount_path: /run}, {mount_path: /cache, options: [size=1Mi, mode=750]}]");
    let files = place.container(&spec).expect("prepared");
    let high = place.layers[1].display().to_string();
    assert_eq!(
        fs::read_to_string(files.rootfs.join("file")).expect("there"),
        high
    );
    assert_eq!([mode(&files.tmp), mode(&files.shm)], [0o1777, 0o1777]);
    assert_eq!([mode(&files.tmpfs[0]), mode(&files.tmpfs[1])], [0o1777, 0o750]);
    assert!(files.bundle.is_dir() && files.logs.is_dir());
    // 20 MiB: 16 for the root, 4 for all that has no size of its own.
    let (root, _) = fill(&files.rootfs.join("big"));
    let (cache, _) = fill(&files.tmpfs[1].join("big"));
    let (run, _) = fill(&files.tmpfs[0].join("big"));
    let (tmp, fault) = fill(&files.tmp.join("big"));
    assert_eq!(fault.kind(), io::ErrorKind::StorageFull);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    assert_eq!([mib(root), mib(cache), mib(run), tmp], [16, 1, 4, 0]);
    assert_eq!(fs::read_dir(&files.shm).expect("there").count(), 0);
}

/// As owner, group and mode on the host.
fn about(path: &Path) -> (u32, u32, u32) {
    let stat = fs::metadata(path).expect("there");
    (stat.uid(), stat.gid(), stat.mode() & 0o7777)
}

#[test]
fn files_of_a_user_namespace_are_its_roots_and_only_that_root_passes() {
    let place = Box::new();
    let pinned = Pinned::below(place.mounts.path());
    let spec = spec("tmpfs: [{mount_path: /run}, {mount_path: /cache, options: [size=1Mi, mode=750]}]");
    let shared = place
        .sandbox_in(&spec, Some(pinned.namespace.clone()))
        .expect("prepared");
    let own = prepare_container(&shared, &spec, &spec.containers[0], &place.layers).expect("prepared");
    let root = pinned.namespace.ids.root();
    for (path, mode) in [
        (&shared.volumes["state"], 0o1777),
        (&shared.hosts, 0o644),
        (&shared.host_name, 0o644),
        (&shared.resolv_conf, 0o644),
        (&own.tmp, 0o1777),
        (&own.shm, 0o1777),
        (&own.tmpfs[0], 0o1777),
        (&own.tmpfs[1], 0o750),
        (&own.rootfs, 0o755),
        (&own.rootfs.join("file"), 0o644),
    ] {
        assert_eq!(about(path), (root, root, mode), "{}", path.display());
    }
    let container = place.dir.join("run/containers/c");
    for path in [&place.dir, &place.dir.join("run/containers"), &container] {
        assert_eq!(about(path), (0, root, 0o710), "{}", path.display());
    }
    for path in [
        &place.dir.join("run/volumes"),
        &place.dir.join("run/etc"),
        &own.bundle,
        &own.logs,
    ] {
        assert_eq!(about(path), (0, 0, 0o700), "{}", path.display());
    }
    assert_eq!(release(&place.dir).len(), 0);
    assert_eq!(place.names(), ["logs"]);
}

#[test]
fn tmpfs_that_allows_setuid_programs_can_be_bound_so_within_a_user_namespace() {
    let place = Box::new();
    let flags = |path: &Path| nix::sys::statvfs::statvfs(path).expect("there").flags();
    let closed = nix::sys::statvfs::FsFlags::ST_NOSUID | nix::sys::statvfs::FsFlags::ST_NODEV;
    for (options, is_open) in [
        ("[size=1Mi, suid]", [false, true]),
        ("[size=1Mi, dev]", [false, true]),
        ("[suid]", [true, true]),
        ("[suid, nosuid, size=1Mi]", [false, false]),
        ("[]", [false, false]),
    ] {
        let spec = spec(&format!("tmpfs: [{{mount_path: /run, options: {options}}}]"));
        let files = place.container(&spec).expect("prepared");
        for (path, is_open) in [&files.tmp, &files.tmpfs[0]].into_iter().zip(is_open) {
            assert_eq!(
                flags(path).contains(closed),
                !is_open,
                "{options}: {}",
                path.display()
            );
        }
        assert_eq!(release(&place.dir).len(), 0);
    }
}

#[test]
fn read_only_root_has_no_budget_of_its_own() {
    let place = Box::new();
    let files = place.container(&spec("read_only: true")).expect("prepared");
    // What an OCI runtime makes before it turns the root read-only.
    fs::create_dir_all(files.rootfs.join("srv/data")).expect("made");
    assert_eq!(
        place.mounts.present().len(),
        5,
        "where all others are, two volumes, the /tmp budget, the root"
    );
    assert!(!place.layers[1].join("srv").exists());
    assert_eq!(fs::read_dir(&files.tmp).expect("there").count(), 0);
}

#[test]
fn released_sandbox_leaves_logs_and_what_others_made() {
    let place = Box::new();
    let files = place.container(&spec("")).expect("prepared");
    fs::write(files.logs.join("0.log"), "x").expect("written");
    fs::create_dir_all(place.dir.join("monitor")).expect("made");
    for _ in 0..2 {
        assert_eq!(release(&place.dir).len(), 0);
        place.check_released(&["logs", "monitor"]);
    }
    for _ in 0..2 {
        assert_eq!(remove(&place.dir).len(), 0);
        assert!(!place.dir.exists());
    }
    assert!(place.layers[0].join("file").exists());
}

#[test]
fn folder_after_a_reboot_is_released() {
    let place = Box::new();
    place.container(&spec("")).expect("prepared");
    assert_eq!(crate::runtime::mount::unmount_below(&[&place.dir]).len(), 0);
    assert_eq!(release(&place.dir).len(), 0);
    place.check_released(&["logs"]);
}

#[test]
fn links_that_a_container_made_lead_nowhere() {
    let place = Box::new();
    let files = place.container(&spec("")).expect("prepared");
    let outside = place.mounts.path().join("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("precious"), "x").expect("written");
    for folder in [&files.tmp, &files.rootfs, &files.shm] {
        symlink(&outside, folder.join("link")).expect("made");
    }
    // As if a runtime had left one behind, too.
    symlink(&outside, files.bundle.join("link")).expect("made");
    assert_eq!(remove(&place.dir).len(), 0);
    assert!(outside.join("precious").exists());
}

#[test]
fn file_that_is_held_open_is_told_of_and_nothing_stays_mounted() {
    let place = Box::new();
    let files = place.container(&spec("")).expect("prepared");
    let held = fs::File::create(files.tmp.join("held")).expect("made");
    let faults = release(&place.dir);
    assert!(
        matches!(&faults[..], [FilesError::Mount(MountError::Busy { path })] if path.ends_with("c/tmp")),
        "{faults:?}"
    );
    place.check_released(&["logs"]);
    drop(held);
}

#[test]
fn failed_step_undoes_what_was_done() {
    let place = Box::new();
    let mut spec = spec("");
    let files = place.sandbox(&spec).expect("prepared");
    let before = place.mounts.present();
    let missing = [place.layers[0].clone(), place.mounts.path().join("nowhere")];
    let fault = prepare_container(&files, &spec, &spec.containers[0], &missing).expect_err("refused");
    assert!(fault.to_string().contains("nowhere"), "{fault}");
    assert_eq!(place.mounts.present(), before);
    assert!(!place.dir.join("run/containers/c").exists());
    // A volume twice: the second one can't be made.
    spec.volumes.push(spec.volumes[0].clone());
    place.sandbox(&spec).expect_err("refused");
    place.check_released(&["logs"]);
}

#[test]
fn second_attempt_starts_from_nothing() {
    let place = Box::new();
    let spec = spec("");
    let first = place.container(&spec).expect("prepared");
    fs::write(first.tmp.join("old"), "x").expect("written");
    let present = place.mounts.present();
    let files = place.sandbox(&spec).expect("prepared");
    for _ in 0..2 {
        let second = prepare_container(&files, &spec, &spec.containers[0], &place.layers).expect("prepared");
        assert_eq!(second, first);
        assert!(!second.tmp.join("old").exists());
    }
    let mut again = place.mounts.present();
    again.sort();
    let mut present = present;
    present.sort();
    assert_eq!(again, present);
}

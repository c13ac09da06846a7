//! On the real kernel, as root: what a mount allows, and that it goes.

use super::*;
use proto::units::{Bytes, MIB};
use std::fs::File;
use std::io::Write;
use tempfile::TempDir;

/// A folder whose mounts go before it does, however the test ends.
pub(in crate::runtime) struct Mounts(TempDir);

impl Mounts {
    pub(in crate::runtime) fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(in crate::runtime) fn path(&self) -> &Path {
        self.0.path()
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).expect("made");
        path
    }

    /// Whatever of this folder is in the table of mounts.
    pub(in crate::runtime) fn present(&self) -> Vec<PathBuf> {
        let all = mountinfo::read().expect("read").into_iter().map(|m| m.path);
        all.filter(|path| path.starts_with(self.path())).collect()
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let faults = unmount_below(&[self.path()]);
        assert!(faults.is_empty() || std::thread::panicking(), "{faults:?}");
    }
}

/// Writes to `path` until there is an error; says how much was written, and the error.
pub(in crate::runtime) fn fill(path: &Path) -> (u64, io::Error) {
    let mut file = File::create(path).expect("made");
    let block = [7; 4096];
    let mut written = 0;
    loop {
        match file.write(&block) {
            Ok(length) => written += length as u64,
            Err(fault) => return (written, fault),
        }
    }
}

fn limit(size: u64, inodes: u64) -> TmpfsLimit {
    TmpfsLimit {
        size: Bytes(size),
        inodes,
    }
}

#[test]
fn tmpfs_that_is_full_answers_enospc_at_its_size() {
    let mounts = Mounts::new();
    let target = mounts.folder("volume");
    tmpfs(&target, limit(MIB, 100), 0o1777).expect("mounted");
    let (written, fault) = fill(&target.join("file"));
    assert_eq!(fault.kind(), io::ErrorKind::StorageFull);
    assert_eq!(written, MIB);
}

#[test]
fn tmpfs_without_inodes_left_answers_enospc() {
    let mounts = Mounts::new();
    let target = mounts.folder("volume");
    tmpfs(&target, limit(MIB, 50), 0o1777).expect("mounted");
    let made = (0..100)
        .map_while(|i| File::create(target.join(i.to_string())).ok())
        .count();
    assert!((40..50).contains(&made), "{made}");
    let fault = File::create(target.join("more")).expect_err("full");
    assert_eq!(fault.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn tmpfs_has_its_mode_and_neither_setuid_nor_devices() {
    let mounts = Mounts::new();
    let target = mounts.folder("volume");
    tmpfs(&target, limit(MIB, 50), 0o1770).expect("mounted");
    assert_eq!(fs::metadata(&target).expect("there").mode() & 0o7777, 0o1770);
    let flags = nix::sys::statvfs::statvfs(&target).expect("there").flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_NOSUID | nix::sys::statvfs::FsFlags::ST_NODEV));
}

/// `count` layers with a file each, and one file that all have; their paths together are far more than a page.
fn layers(mounts: &Mounts, count: usize) -> Vec<PathBuf> {
    let make = |i: usize| {
        let layer = mounts.folder(&format!("layers/{i:064}"));
        fs::write(layer.join(format!("of-{i}")), i.to_string()).expect("written");
        fs::write(layer.join("same"), i.to_string()).expect("written");
        layer
    };
    (0..count).map(make).collect()
}

fn check_merged(root: &Path, count: usize) {
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("there");
    assert_eq!(read("same"), (count - 1).to_string(), "the highest layer wins");
    for i in 0..count {
        assert_eq!(read(&format!("of-{i}")), i.to_string());
    }
}

#[test]
fn overlay_of_many_layers_shows_all() {
    let mounts = Mounts::new();
    let layers = layers(&mounts, 300);
    let (target, writable) = (mounts.folder("rootfs"), mounts.folder("root"));
    tmpfs(&writable, limit(MIB, 1_000), 0o700).expect("mounted");
    overlay(&target, &layers, &writable).expect("mounted");
    check_merged(&target, 300);
}

#[test]
fn overlay_of_an_older_kernel_shows_all() {
    let mounts = Mounts::new();
    let layers = layers(&mounts, 100);
    let (target, writable) = (mounts.folder("root:fs,1"), mounts.folder("ro\\ot:,"));
    tmpfs(&writable, limit(MIB, 1_000), 0o700).expect("mounted");
    let parts = Parts::make(&layers, &writable, &target).expect("there");
    overlay_by_options(&target, &parts, String::new()).expect("mounted");
    check_merged(&target, 100);
    fs::write(target.join("new"), "x").expect("written");
    assert!(writable.join("upper/new").exists());
    assert_eq!(unmount_below(&[&target]).len(), 0);
    let layers = [&layers[..]; 3].concat();
    let parts = Parts::make(&layers, &writable, &target).expect("there");
    let fault = overlay_by_options(&target, &parts, String::new()).expect_err("too long");
    assert!(fault.to_string().contains("too many for this kernel"), "{fault}");
}

#[test]
fn overlay_keeps_changes_in_its_writable_folder_up_to_the_size() {
    let mounts = Mounts::new();
    let layers = layers(&mounts, 2);
    fs::set_permissions(&layers[1], Permissions::from_mode(0o711)).expect("set");
    let (target, writable) = (mounts.folder("rootfs"), mounts.folder("root"));
    tmpfs(&writable, limit(MIB, 1_000), 0o700).expect("mounted");
    overlay(&target, &layers, &writable).expect("mounted");
    assert_eq!(fs::metadata(&target).expect("there").mode() & 0o7777, 0o711);
    fs::write(target.join("same"), "changed").expect("written");
    fs::remove_file(target.join("of-0")).expect("removed");
    assert_eq!(fs::read_to_string(layers[1].join("same")).expect("there"), "1");
    assert!(layers[0].join("of-0").exists());
    let (written, fault) = fill(&target.join("big"));
    assert_eq!(fault.kind(), io::ErrorKind::StorageFull);
    assert!(written < MIB, "{written}");
}

#[test]
fn overlay_that_cannot_be_mounted_says_why() {
    let mounts = Mounts::new();
    let (target, writable) = (mounts.folder("rootfs"), mounts.folder("root"));
    let missing = [mounts.path().join("nowhere")];
    for (layers, want) in [
        (&[][..], "its image has no layers"),
        (&missing[..], "cannot use the layer"),
    ] {
        let fault = overlay(&target, layers, &writable).expect_err("refused");
        assert!(fault.to_string().contains(want), "{fault}");
    }
    // A filesystem that can't hold a writable layer.
    let fault = overlay(&target, &layers(&mounts, 1), Path::new("/proc/self")).expect_err("refused");
    assert!(
        fault.to_string().contains("cannot make /proc/self/upper"),
        "{fault}"
    );
    let gone = mounts.path().join("gone");
    let fault = tmpfs(&gone, limit(MIB, 10), 0o700).expect_err("refused");
    assert!(fault.to_string().contains("attaching it: ENOENT"), "{fault}");
    assert_eq!(mounts.present(), Vec::<PathBuf>::new());
}

#[test]
fn mount_below_a_shared_one_does_not_propagate() {
    let mounts = Mounts::new();
    let shared = mounts.folder("shared");
    tmpfs(&shared, limit(MIB, 10), 0o700).expect("mounted");
    nix::mount::mount(
        None::<&Path>,
        &shared,
        None::<&Path>,
        MsFlags::MS_SHARED,
        None::<&Path>,
    )
    .expect("shared");
    let own = mounts.folder("shared/own");
    tmpfs(&own, limit(MIB, 10), 0o700).expect("mounted");
    let table = fs::read_to_string(mountinfo::TABLE).expect("read");
    let line = |path: &Path| {
        table
            .lines()
            .find(|line| line.contains(&format!(" {} ", path.display())))
    };
    assert!(line(&shared).expect("there").contains("shared:"));
    assert!(!line(&own).expect("there").contains("shared:"));
}

#[test]
fn all_mounts_below_a_folder_go_and_no_others() {
    let mounts = Mounts::new();
    let [one, other] = ["a b/one", "a b-other"].map(|name| mounts.folder(name));
    for target in [&one, &one, &other] {
        tmpfs(target, limit(MIB, 10), 0o700).expect("mounted");
    }
    tmpfs(&mounts.folder("a b/one/in"), limit(MIB, 10), 0o700).expect("mounted");
    let folder = mounts.path().join("a b");
    for _ in 0..2 {
        assert_eq!(unmount_below(&[&folder]).len(), 0);
        assert_eq!(mounts.present(), std::slice::from_ref(&other));
    }
    assert_eq!(unmount_below(&[&mounts.path().join("nowhere")]).len(), 0);
}

#[test]
fn mount_with_an_open_file_is_detached_and_told_of() {
    let mounts = Mounts::new();
    let target = mounts.folder("volume");
    tmpfs(&target, limit(MIB, 10), 0o700).expect("mounted");
    let held = File::create(target.join("held")).expect("made");
    let faults = unmount_below(&[mounts.path()]);
    assert!(
        matches!(&faults[..], [MountError::Busy { path }] if *path == target),
        "{faults:?}"
    );
    assert_eq!(mounts.present(), Vec::<PathBuf>::new());
    drop(held);
}

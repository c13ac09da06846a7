//! On the real kernel, as root: what a mount allows, and that it goes.

use super::overlay::{Mapped, Parts, overlay_by_options, overlay_of_attached};
use super::*;
use crate::runtime::namespace;
use crate::runtime::user_namespace::{IdRange, UserNamespace};
use proto::units::{Bytes, MIB};
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
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

/// Root's, and closed.
pub(in crate::runtime) fn plain(limit: TmpfsLimit, mode: u32) -> Tmpfs {
    Tmpfs {
        limit,
        mode,
        owner: 0,
        is_open: false,
    }
}

fn wanted(size: u64, inodes: u64, mode: u32) -> Tmpfs {
    let size = Bytes(size);
    plain(TmpfsLimit { size, inodes }, mode)
}

/// A user namespace, pinned; gone when dropped.
pub(in crate::runtime) struct Pinned {
    folder: PathBuf,
    pub(in crate::runtime) namespace: UserNamespace,
}

impl Pinned {
    pub(in crate::runtime) fn below(folder: &Path) -> Self {
        let folder = folder.join("ns");
        let ids = IdRange::from(1 << 28).expect("a range");
        let pins = namespace::create(&folder, "box", Some(ids)).expect("made; run this as root");
        let path = pins.user;
        Self {
            folder,
            namespace: UserNamespace { path, ids },
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        assert!(namespace::remove(&self.folder).is_empty());
    }
}

#[test]
fn tmpfs_that_is_full_answers_enospc_at_its_size() {
    let mounts = Mounts::new();
    let target = mounts.folder("volume");
    tmpfs(&target, wanted(MIB, 100, 0o1777)).expect("mounted");
    let (written, fault) = fill(&target.join("file"));
    assert_eq!(fault.kind(), io::ErrorKind::StorageFull);
    assert_eq!(written, MIB);
}

#[test]
fn tmpfs_without_inodes_left_answers_enospc() {
    let mounts = Mounts::new();
    let target = mounts.folder("volume");
    tmpfs(&target, wanted(MIB, 50, 0o1777)).expect("mounted");
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
    tmpfs(&target, wanted(MIB, 50, 0o1770)).expect("mounted");
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
    tmpfs(&writable, wanted(MIB, 1_000, 0o700)).expect("mounted");
    overlay(&target, &layers, &writable, None).expect("mounted");
    check_merged(&target, 300);
}

#[test]
fn overlay_of_an_older_kernel_shows_all() {
    let mounts = Mounts::new();
    let layers = layers(&mounts, 100);
    let (target, writable) = (mounts.folder("root:fs,1"), mounts.folder("ro\\ot:,"));
    tmpfs(&writable, wanted(MIB, 1_000, 0o700)).expect("mounted");
    let parts = Parts::make(&layers, &writable, &target, &[], None).expect("there");
    overlay_by_options(&target, &parts, String::new()).expect("mounted");
    check_merged(&target, 100);
    fs::write(target.join("new"), "x").expect("written");
    assert!(writable.join("upper/new").exists());
    assert_eq!(unmount_below(&[&target]).len(), 0);
    let layers = [&layers[..]; 3].concat();
    let parts = Parts::make(&layers, &writable, &target, &[], None).expect("there");
    let fault = overlay_by_options(&target, &parts, String::new()).expect_err("too long");
    assert!(fault.to_string().contains("too many for this kernel"), "{fault}");
}

#[test]
fn overlay_keeps_changes_in_its_writable_folder_up_to_the_size() {
    let mounts = Mounts::new();
    let layers = layers(&mounts, 2);
    fs::set_permissions(&layers[1], Permissions::from_mode(0o711)).expect("set");
    let (target, writable) = (mounts.folder("rootfs"), mounts.folder("root"));
    tmpfs(&writable, wanted(MIB, 1_000, 0o700)).expect("mounted");
    overlay(&target, &layers, &writable, None).expect("mounted");
    assert_eq!(fs::metadata(&target).expect("there").mode() & 0o7777, 0o711);
    fs::write(target.join("same"), "changed").expect("written");
    fs::remove_file(target.join("of-0")).expect("removed");
    assert_eq!(fs::read_to_string(layers[1].join("same")).expect("there"), "1");
    assert!(layers[0].join("of-0").exists());
    let (written, fault) = fill(&target.join("big"));
    assert_eq!(fault.kind(), io::ErrorKind::StorageFull);
    assert!(written < MIB, "{written}");
}

/// As owner and group on the host.
fn owner(path: &Path) -> (u32, u32) {
    let stat = fs::symlink_metadata(path).expect("there");
    (stat.uid(), stat.gid())
}

/// Layers with files of root, of another user and of one that no namespace has.
fn owned_layers(mounts: &Mounts) -> Vec<PathBuf> {
    let layers = layers(mounts, 3);
    for (name, id) in [("root", 0), ("user", 33), ("last", 65_535), ("beyond", 65_536)] {
        let path = layers[1].join(name);
        fs::write(&path, name).expect("written");
        chown(&path, Some(id), Some(id)).expect("given");
    }
    chown(&layers[2], Some(7), Some(8)).expect("given");
    layers
}

const FIRST: u32 = 1 << 28;
/// Of what has no place in a namespace.
const NOBODY: u32 = 65_534;

#[track_caller]
fn check_owners(root: &Path) {
    for (name, want) in [
        ("root", FIRST),
        ("user", FIRST + 33),
        ("last", FIRST + 65_535),
        ("beyond", NOBODY),
    ] {
        assert_eq!(owner(&root.join(name)), (want, want), "{name}");
    }
    assert_eq!(owner(root), (FIRST + 7, FIRST + 8));
    // A change copies the file up, which keeps its owner.
    fs::write(root.join("user"), "changed").expect("written");
    assert_eq!(owner(&root.join("user")), (FIRST + 33, FIRST + 33));
}

#[test]
fn overlay_in_a_user_namespace_shows_owners_of_it() {
    let mounts = Mounts::new();
    let pinned = Pinned::below(mounts.path());
    let layers = owned_layers(&mounts);
    let (target, writable) = (mounts.folder("rootfs"), mounts.folder("root"));
    tmpfs(&writable, wanted(MIB, 1_000, 0o700)).expect("mounted");
    overlay(&target, &layers, &writable, Some(&pinned.namespace)).expect("mounted");
    check_merged(&target, 3);
    check_owners(&target);
    assert_eq!(
        owner(&layers[1].join("user")),
        (33, 33),
        "images stay as they are"
    );
}

#[test]
fn overlay_in_a_user_namespace_of_an_older_kernel_shows_owners_of_it() {
    let mounts = Mounts::new();
    let pinned = Pinned::below(mounts.path());
    let layers = owned_layers(&mounts);
    let (target, writable) = (mounts.folder("rootfs"), mounts.folder("root"));
    tmpfs(&writable, wanted(MIB, 1_000, 0o700)).expect("mounted");
    let mapped = Mapped::all(&layers, &pinned.namespace).expect("mapped");
    assert_eq!(mapped.len(), 1, "all are in one folder");
    let parts = Parts::make(&layers, &writable, &target, &mapped, Some(&pinned.namespace)).expect("there");
    overlay_of_attached(&target, &parts, &mapped, &writable).expect("mounted");
    check_merged(&target, 3);
    check_owners(&target);
    let present = mounts.present();
    let others = present.iter().filter(|path| !path.starts_with(&pinned.folder));
    assert_eq!(others.collect::<Vec<_>>(), [&writable, &target]);
    assert!(!writable.join("layers").exists());
}

#[test]
fn layers_without_a_user_namespace_are_told_of() {
    let mounts = Mounts::new();
    let (target, writable) = (mounts.folder("rootfs"), mounts.folder("root"));
    let nowhere = UserNamespace {
        path: mounts.path().join("nowhere"),
        ids: IdRange::from(FIRST).expect("a range"),
    };
    let layers = layers(&mounts, 1);
    let fault = overlay(&target, &layers, &writable, Some(&nowhere)).expect_err("refused");
    assert!(
        fault.to_string().contains("cannot open the user namespace"),
        "{fault}"
    );
    fs::write(&nowhere.path, "no namespace").expect("written");
    let fault = overlay(&target, &layers, &writable, Some(&nowhere)).expect_err("refused");
    assert!(fault.to_string().contains("have layers owned"), "{fault}");
    assert_eq!(mounts.present(), Vec::<PathBuf>::new());
}

#[test]
fn tmpfs_has_its_owner_and_may_be_open() {
    let mounts = Mounts::new();
    let target = mounts.folder("volume");
    let wanted = Tmpfs {
        owner: FIRST,
        is_open: true,
        ..wanted(MIB, 50, 0o1777)
    };
    tmpfs(&target, wanted).expect("mounted");
    assert_eq!(owner(&target), (FIRST, FIRST));
    let flags = nix::sys::statvfs::statvfs(&target).expect("there").flags();
    assert!(!flags.intersects(nix::sys::statvfs::FsFlags::ST_NOSUID | nix::sys::statvfs::FsFlags::ST_NODEV));
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
        let fault = overlay(&target, layers, &writable, None).expect_err("refused");
        assert!(fault.to_string().contains(want), "{fault}");
    }
    // A filesystem that can't hold a writable layer.
    let fault = overlay(&target, &layers(&mounts, 1), Path::new("/proc/self"), None).expect_err("refused");
    assert!(
        fault.to_string().contains("cannot make /proc/self/upper"),
        "{fault}"
    );
    let gone = mounts.path().join("gone");
    let fault = tmpfs(&gone, wanted(MIB, 10, 0o700)).expect_err("refused");
    assert!(fault.to_string().contains("attaching it: ENOENT"), "{fault}");
    assert_eq!(mounts.present(), Vec::<PathBuf>::new());
}

#[test]
fn mount_below_a_shared_one_does_not_propagate() {
    let mounts = Mounts::new();
    let shared = mounts.folder("shared");
    tmpfs(&shared, wanted(MIB, 10, 0o700)).expect("mounted");
    nix::mount::mount(
        None::<&Path>,
        &shared,
        None::<&Path>,
        MsFlags::MS_SHARED,
        None::<&Path>,
    )
    .expect("shared");
    let own = mounts.folder("shared/own");
    tmpfs(&own, wanted(MIB, 10, 0o700)).expect("mounted");
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
        tmpfs(target, wanted(MIB, 10, 0o700)).expect("mounted");
    }
    tmpfs(&mounts.folder("a b/one/in"), wanted(MIB, 10, 0o700)).expect("mounted");
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
    tmpfs(&target, wanted(MIB, 10, 0o700)).expect("mounted");
    let held = File::create(target.join("held")).expect("made");
    let faults = unmount_below(&[mounts.path()]);
    assert!(
        matches!(&faults[..], [MountError::Busy { path }] if *path == target),
        "{faults:?}"
    );
    assert_eq!(mounts.present(), Vec::<PathBuf>::new());
    drop(held);
}

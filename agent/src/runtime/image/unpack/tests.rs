//! Layers unpacked for real, as root: good ones byte for byte, whiteouts under a real overlay, hostile ones refused.

use super::*;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use tempfile::TempDir;

/// One raw tar entry; `name` may be what no builder would write.
fn entry(name: &str, kind: tar::EntryType, link: &str, content: &[u8]) -> Vec<u8> {
    described(name, kind, link, content, |_| ())
}

fn described(
    name: &str,
    kind: tar::EntryType,
    link: &str,
    content: &[u8],
    with: impl FnOnce(&mut tar::Header),
) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_600_000_000);
    header.set_size(content.len() as u64);
    with(&mut header);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn folder(name: &str) -> Vec<u8> {
    entry(name, tar::EntryType::Directory, "", b"")
}

fn text(name: &str, content: &str) -> Vec<u8> {
    entry(name, tar::EntryType::Regular, "", content.as_bytes())
}

fn symlink(name: &str, target: &str) -> Vec<u8> {
    entry(name, tar::EntryType::Symlink, target, b"")
}

fn hard_link(name: &str, target: &str) -> Vec<u8> {
    entry(name, tar::EntryType::Link, target, b"")
}

/// Records of an extension header for the entry that follows.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..)
            .find(|n| n.to_string().len() + rest == *n)
            .expect("a length");
        data.extend_from_slice(format!("{length} {key}=").as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    entry("pax", tar::EntryType::XHeader, "", &data)
}

const SMALL: Limits = Limits {
    bytes: 1 << 20,
    members: 100,
};

/// The layer in `outside/layer`, with a witness beside it.
fn unpacked(parts: &[Vec<u8>]) -> (TempDir, Result<(), UnpackFault>) {
    let outside = tempfile::tempdir().expect("a folder");
    fs::create_dir(outside.path().join("layer")).expect("made");
    fs::write(outside.path().join("witness"), "untouched").expect("written");
    let mut archive = parts.concat();
    archive.extend_from_slice(&[0; 1024]);
    let recipe = RecipeWriter::new(io::sink());
    let result = unpack(archive.as_slice(), &outside.path().join("layer"), SMALL, recipe);
    (outside, result.map(|_| ()))
}

#[track_caller]
fn layer(parts: &[Vec<u8>]) -> (TempDir, PathBuf) {
    let (outside, result) = unpacked(parts);
    result.expect("unpacked");
    let path = outside.path().join("layer");
    (outside, path)
}

/// The archive is refused with `why`, or is harmless; either way all stays as it was outside.
#[track_caller]
fn check_hostile(parts: &[Vec<u8>], why: Option<&str>) {
    let (outside, result) = unpacked(parts);
    let said = result.map_err(|e| e.to_string());
    match (&said, why) {
        (Ok(()), None) => {}
        (Err(said), Some(why)) => assert!(said.contains(why), "{said:?} lacks {why:?}"),
        other => panic!("{other:?}"),
    }
    let mut names: Vec<_> = fs::read_dir(outside.path())
        .expect("read")
        .map(|e| e.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["layer", "witness"]);
    assert_eq!(
        fs::read_to_string(outside.path().join("witness")).expect("read"),
        "untouched"
    );
    assert_eq!(
        fs::metadata(outside.path().join("witness"))
            .expect("stat")
            .nlink(),
        1
    );
}

#[test]
fn files_keep_content_mode_owner_and_time() {
    let suid = described("bin/su", tar::EntryType::Regular, "", b"#!", |h| {
        h.set_mode(0o4755);
        h.set_uid(7);
        h.set_gid(8);
    });
    let tmp = described("tmp/", tar::EntryType::Directory, "", b"", |h| h.set_mode(0o1777));
    let root = described("./", tar::EntryType::Directory, "", b"", |h| h.set_mode(0o711));
    let fifo = described("run/fifo", tar::EntryType::Fifo, "", b"", |h| h.set_mode(0o622));
    let (_keep, at) = layer(&[root, tmp, suid, fifo, text("tmp/x", "later")]);
    let su = fs::metadata(at.join("bin/su")).expect("su");
    assert_eq!(
        (su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()),
        (0o4755, 7, 8, 1_600_000_000)
    );
    assert_eq!(fs::read(at.join("bin/su")).expect("read"), b"#!");
    let tmp = fs::metadata(at.join("tmp")).expect("tmp");
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 1_600_000_000));
    assert_eq!(fs::metadata(&at).expect("root").mode() & 0o7777, 0o711);
    let fifo = fs::metadata(at.join("run/fifo")).expect("fifo");
    assert!(fifo.file_type().is_fifo());
    assert_eq!(fifo.mode() & 0o7777, 0o622);
    assert_eq!(fs::metadata(at.join("bin")).expect("bin").mode() & 0o7777, 0o755);
}

/// Programs that build archives in memory leave out what does not matter to them.
#[test]
fn empty_fields_of_a_header_are_zero() {
    let bare = described("bare", tar::EntryType::Regular, "", b"x", |h| {
        let old = h.as_old_mut();
        old.uid = [0; 8];
        old.gid = [b' '; 8];
        old.mtime = [0; 12];
        old.mode = [0; 8];
    });
    let (_keep, at) = layer(&[bare]);
    let stat = fs::metadata(at.join("bare")).expect("stat");
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mtime(), stat.mode() & 0o7777),
        (0, 0, 0, 0)
    );
}

#[test]
fn links_stay_what_they_are() {
    let (_keep, at) = layer(&[
        text("a", "x"),
        hard_link("b", "./a"),
        hard_link("c", "/a"),
        symlink("abs", "/etc/passwd"),
        symlink("up", "../../.."),
        hard_link("same", "abs"),
    ]);
    let inode = |name: &str| fs::symlink_metadata(at.join(name)).expect(name).ino();
    assert_eq!(
        (inode("b"), inode("c"), inode("same")),
        (inode("a"), inode("a"), inode("abs"))
    );
    assert_eq!(
        fs::read_link(at.join("abs")).expect("a link"),
        Path::new("/etc/passwd")
    );
    assert_eq!(
        fs::read_link(at.join("up")).expect("a link"),
        Path::new("../../..")
    );
}

#[test]
fn later_entries_replace_earlier_ones() {
    let (_keep, at) = layer(&[
        text("f", "old"),
        text("f", "new"),
        folder("d"),
        text("d/inner", "kept"),
        folder("d/"),
        folder("gone"),
        text("gone/deep/inner", "x"),
        symlink("gone", "f"),
        symlink("link", "d"),
        text("link", "no longer a link"),
    ]);
    assert_eq!(fs::read_to_string(at.join("f")).expect("f"), "new");
    assert_eq!(fs::read_to_string(at.join("d/inner")).expect("inner"), "kept");
    assert_eq!(fs::read_link(at.join("gone")).expect("a link"), Path::new("f"));
    assert!(fs::symlink_metadata(at.join("link")).expect("link").is_file());
}

#[test]
fn entries_through_a_link_land_where_it_leads_within_the_layer() {
    let (_keep, at) = layer(&[
        folder("usr"),
        folder("usr/lib"),
        symlink("lib", "/usr/lib"),
        text("lib/x", "1"),
    ]);
    assert_eq!(fs::read_to_string(at.join("usr/lib/x")).expect("x"), "1");
}

#[test]
fn extension_headers_give_long_names_times_owners_and_attributes() {
    let long = format!("{}/file", ["directory-with-a-name"; 12].join("/"));
    // A capability's value is binary and may contain a newline.
    let capability = b"\x01\x00\x00\x02\x0a\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let headers = pax(&[
        ("path", long.as_bytes()),
        ("mtime", b"1600000001.25"),
        ("uid", b"70000"),
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.note", b"hello"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
    ]);
    let (_keep, at) = layer(&[headers, text("short", "x"), text("next", "plain")]);
    let path = at.join(long);
    let stat = fs::metadata(&path).expect("stat");
    assert_eq!(
        (stat.uid(), stat.mtime(), stat.mtime_nsec()),
        (70_000, 1_600_000_001, 250_000_000)
    );
    let mut attributes: Vec<_> = xattr::list(&path).expect("listed").collect();
    attributes.sort();
    assert_eq!(attributes, ["security.capability", "user.note"]);
    assert_eq!(
        xattr::get(&path, "security.capability")
            .expect("read")
            .expect("there"),
        capability
    );
    assert_eq!(fs::metadata(at.join("next")).expect("stat").uid(), 0);
}

#[test]
fn devices_are_left_out() {
    let zero = described("dev/null", tar::EntryType::Char, "", b"", |h| {
        h.set_device_major(1).expect("major");
        h.set_device_minor(3).expect("minor");
    });
    let (_keep, at) = layer(&[zero, text("after", "x")]);
    assert!(!at.join("dev/null").exists());
    assert!(at.join("after").exists());
}

#[test]
fn hostile_archives_change_nothing_outside() {
    let link_out = symlink("out", "..");
    let link_far = symlink("out", "../../../../../../../../../../tmp");
    check_hostile(&[text("../witness", "gone")], Some("leads out"));
    check_hostile(&[text("a/../../witness", "gone")], Some("leads out"));
    check_hostile(&[folder("..")], Some("leads out"));
    check_hostile(&[text(".", "x")], Some("leads out"));
    check_hostile(&[text("/witness", "in the layer")], None);
    check_hostile(&[link_out.clone(), text("out/witness", "in the layer")], None);
    // Within the layer, `/tmp` is the layer's own, which is not there.
    check_hostile(&[link_far, text("out/witness", "x")], Some("find the folder"));
    check_hostile(
        &[symlink("a", "b"), symlink("b", "a"), text("a/x", "x")],
        Some("find the folder"),
    );
    check_hostile(
        &[symlink("l", "../witness"), text("l", "replaces the link")],
        None,
    );
    check_hostile(&[hard_link("w", "../witness")], Some("leads out"));
    check_hostile(
        &[link_out.clone(), hard_link("w", "out/witness")],
        Some("link to its target"),
    );
    check_hostile(
        &[hard_link("w", "/proc/self/environ")],
        Some("link to its target"),
    );
    check_hostile(&[link_out.clone(), text("out/.wh.witness", "")], None);
    check_hostile(&[text(".wh...", "")], Some("leads out"));
    check_hostile(&[text(".wh..", "")], Some("leads out"));
    check_hostile(&[text(".wh.", "")], Some("leads out"));
    check_hostile(&[link_out, text("out/.wh..wh..opq", "")], None);
    check_hostile(&[text("f", ""), text("f/below", "")], Some("Not a directory"));
    check_hostile(
        &[entry("odd", tar::EntryType::new(b'Q'), "", b"")],
        Some("unknown type"),
    );
    check_hostile(
        &[pax(&[("path", b"../witness")]), text("x", "gone")],
        Some("leads out"),
    );
    check_hostile(
        &[pax(&[("linkpath", b"../witness")]), hard_link("x", "x")],
        Some("leads out"),
    );
    check_hostile(&[pax(&[("path", b"a\0b")]), text("x", "")], Some("leads out"));
}

#[test]
fn archives_that_would_exhaust_the_node_are_refused() {
    let many: Vec<Vec<u8>> = (0..101).map(|i| text(&format!("f{i}"), "")).collect();
    check_hostile(&many, Some("more than 100 members"));
    check_hostile(
        &[entry("big", tar::EntryType::Regular, "", &vec![0; 1 << 20])],
        Some("more than 1048576 bytes"),
    );
    let promises = described("huge", tar::EntryType::GNULongName, "", b"", |h| {
        h.set_size(1 << 40)
    });
    check_hostile(&[promises], Some("has a header of"));
    let promises = described("huge", tar::EntryType::XHeader, "", b"", |h| h.set_size(2 << 20));
    check_hostile(&[promises], Some("has a header of"));
    let deep = vec!["d"; 300].join("/");
    check_hostile(
        &[pax(&[("path", deep.as_bytes())]), text("x", "")],
        Some("leads out"),
    );
    let half = vec!["d"; 200].join("/");
    let through_links = [
        pax(&[("path", half.as_bytes())]),
        folder("x"),
        symlink("l", &half[..99]),
        pax(&[("linkpath", half.as_bytes())]),
        symlink("l", "x"),
        pax(&[("path", format!("l/{half}").as_bytes())]),
        text("x", ""),
    ];
    check_hostile(&through_links, Some("File name too long"));
}

#[test]
fn malformed_archives_are_refused() {
    check_hostile(
        &[pax(&[("size", b"5")]), text("x", "four")],
        Some("size given twice"),
    );
    check_hostile(
        &[pax(&[("GNU.sparse.major", b"1")]), text("x", "")],
        Some("sparse"),
    );
    check_hostile(&[entry("x", tar::EntryType::GNUSparse, "", b"")], Some("sparse"));
    check_hostile(
        &[entry("p", tar::EntryType::XHeader, "", b"99 a=b\n")],
        Some("malformed extension"),
    );
    check_hostile(
        &[entry("p", tar::EntryType::XHeader, "", b"2 a=b\n")],
        Some("malformed extension"),
    );
    check_hostile(
        &[pax(&[("uid", b"99999999999")]), text("x", "")],
        Some("a user id that is out of range"),
    );
    check_hostile(&[vec![b'x'; 512]], Some("cannot read the archive"));
    let cut = text("x", &"y".repeat(2000));
    let (_keep, result) = unpacked(&[cut[..1024].to_vec()]);
    assert!(result.is_err());
}

/// Mounts the layers as a container gets them, lowest first, and unmounts when dropped.
struct Overlay {
    target: TempDir,
    _layers: Vec<TempDir>,
}

impl Overlay {
    fn of(layers: &[&[Vec<u8>]]) -> Self {
        let layers: Vec<TempDir> = layers.iter().map(|parts| layer(parts).0).collect();
        let target = tempfile::tempdir().expect("a folder");
        let lower: Vec<_> = layers
            .iter()
            .rev()
            .map(|l| l.path().join("layer").display().to_string())
            .collect();
        let options = format!("lowerdir={}", lower.join(":"));
        mount(
            Some("overlay"),
            target.path(),
            Some("overlay"),
            MsFlags::MS_RDONLY,
            Some(options.as_str()),
        )
        .expect("an overlay, which needs root");
        Self {
            target,
            _layers: layers,
        }
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.target.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("read") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(
                        path.strip_prefix(self.target.path())
                            .expect("below")
                            .display()
                            .to_string(),
                    );
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = umount2(self.target.path(), MntFlags::MNT_DETACH);
    }
}

#[track_caller]
fn check_stack(layers: &[&[Vec<u8>]], want: &[&str]) {
    assert_eq!(Overlay::of(layers).files(), want);
}

#[test]
fn whiteouts_hide_what_lies_below_under_a_real_overlay() {
    let base: &[Vec<u8>] = &[text("a", ""), text("d/x", ""), text("d/y", ""), text("e/z", "")];
    check_stack(&[base, &[text("new", "")]], &["a", "d/x", "d/y", "e/z", "new"]);
    check_stack(&[base, &[text(".wh.a", "")]], &["d/x", "d/y", "e/z"]);
    check_stack(&[base, &[text("d/.wh.x", "")]], &["a", "d/y", "e/z"]);
    check_stack(&[base, &[text(".wh.d", "")]], &["a", "e/z"]);
    check_stack(
        &[base, &[text("d/.wh..wh..opq", ""), text("d/new", "")]],
        &["a", "d/new", "e/z"],
    );
    check_stack(
        &[base, &[text("d/new", ""), text("d/.wh..wh..opq", "")]],
        &["a", "d/new", "e/z"],
    );
    // Hidden and made anew in one layer, in either order.
    check_stack(
        &[base, &[text(".wh.d", ""), folder("d"), text("d/new", "")]],
        &["a", "d/new", "e/z"],
    );
    check_stack(
        &[base, &[folder("d"), text("d/new", ""), text(".wh.d", "")]],
        &["a", "d/new", "e/z"],
    );
    check_stack(
        &[base, &[text(".wh.a", ""), text("a", "")]],
        &["a", "d/x", "d/y", "e/z"],
    );
    check_stack(
        &[base, &[text("a", ""), text(".wh.a", "")]],
        &["a", "d/x", "d/y", "e/z"],
    );
    // Brought back by a third layer.
    check_stack(
        &[base, &[text(".wh.d", "")], &[text("d/back", "")]],
        &["a", "d/back", "e/z"],
    );
    check_stack(
        &[base, &[text(".wh..wh.plnk", ""), text("n", "")]],
        &["a", "d/x", "d/y", "e/z", "n"],
    );
}

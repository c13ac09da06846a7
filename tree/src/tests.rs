//! What is packed is what comes out, and nothing that a stranger does leads out of the target.

use super::*;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

const FAITHFUL: Policy = Policy {
    owner: None,
    mode: 0o7777,
    links: true,
};
/// As of a stranger.
const CAREFUL: Policy = Policy {
    owner: None,
    mode: 0o777,
    links: false,
};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn packed(dir: &Path, name: &str, shown: &str) -> (Vec<u8>, Packed) {
    let mut stream = Vec::new();
    let folder = Folder::open(dir).expect("opened");
    let packed = pack(&folder, OsStr::new(name), Path::new(shown), &mut stream).expect("packed");
    (stream, packed)
}

fn unpacked(stream: &[u8], target: &Path, policy: Policy) -> Result<Unpacked, TreeError> {
    unpack(stream, Target::at(target)?, policy)
}

/// All below `dir`: name, mode, time, and content or where it links to.
fn listing(dir: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).expect("listed") {
            let path = entry.expect("read").path();
            let stat = path.symlink_metadata().expect("there");
            let content = if stat.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else if stat.is_symlink() {
                fs::read_link(&path)
                    .expect("read")
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                fs::read(&path).expect("read")
            };
            let name = path.strip_prefix(dir).expect("below").to_owned();
            all.push((name, stat.mode() & 0o7777, stat.mtime(), content));
        }
    }
    all.sort();
    all
}

/// A stream of entries: kind, name, what it links to or holds.
fn stream(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, text) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_mtime(1);
        // Written as they are: the crate itself refuses to make hostile ones.
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        let content = match kind {
            EntryType::Symlink | EntryType::Link => {
                header.as_gnu_mut().expect("gnu").linkname[..text.len()].copy_from_slice(text.as_bytes());
                ""
            }
            _ => text,
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).expect("appended");
    }
    builder.into_inner().expect("whole")
}

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

#[test]
fn tree_comes_out_as_it_went_in() {
    let (from, to) = (folder(), folder());
    let tree = from.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).expect("made");
    fs::create_dir(tree.join("empty")).expect("made");
    fs::write(tree.join("a/file"), "text").expect("written");
    fs::write(tree.join("a/b/none"), "").expect("written");
    fs::write(tree.join("a/large"), vec![7; 3_000_001]).expect("written");
    fs::write(tree.join("x".repeat(255)), "long name").expect("written");
    let deep = tree.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&deep).expect("made");
    fs::write(deep.join("f"), "long path").expect("written");
    symlink("../a/file", tree.join("a/up")).expect("linked");
    symlink("/etc/passwd", tree.join("absolute")).expect("linked");
    symlink("nowhere/".repeat(30), tree.join("long")).expect("linked");
    for (name, mode) in [
        ("a/file", 0o4711),
        ("a/b/none", 0o600),
        ("empty", 0o1777),
        ("a", 0o555),
    ] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).expect("set");
    }
    let (bytes, done) = packed(from.path(), "tree", "tree");
    assert_eq!(
        done,
        Packed {
            entries: 14,
            left_out: 0
        }
    );
    unpacked(&bytes, to.path(), FAITHFUL).expect("unpacked");
    assert_eq!(listing(&to.path().join("tree")), listing(&tree));
    // Once more over what is there: files and links are replaced.
    unpacked(&bytes, to.path(), FAITHFUL).expect("unpacked");
    let same = |list: Vec<(PathBuf, u32, i64, Vec<u8>)>| {
        list.into_iter().map(|(n, m, _, c)| (n, m, c)).collect::<Vec<_>>()
    };
    assert_eq!(same(listing(&to.path().join("tree"))), same(listing(&tree)));
}

/// Unpacks the entries to `target`, and lists what is in the folder around it, which holds the file `file`, the
/// directory `dir`, and the link `link` to it.
#[track_caller]
fn check(entries: &[(EntryType, &str, &str)], target: &str, want: Result<&[&str], &str>) {
    let around = folder();
    fs::write(around.path().join("file"), "old").expect("written");
    fs::create_dir(around.path().join("dir")).expect("made");
    symlink("dir", around.path().join("link")).expect("linked");
    // Joined as text: a trailing slash counts.
    let path = PathBuf::from(format!("{}/{target}", around.path().display()));
    let done = unpacked(&stream(entries), &path, CAREFUL).map_err(|error| error.to_string());
    match (done, want) {
        (Ok(_), Ok(want)) => {
            let there = listing(around.path()).into_iter();
            let there = there.map(|(name, _, _, content)| {
                format!("{} {}", name.display(), String::from_utf8_lossy(&content))
            });
            let there: Vec<String> = there
                .filter(|text| !["file old", "dir ", "link dir"].contains(&text.as_str()))
                .collect();
            assert_eq!(there, want, "{entries:?} to {target}");
        }
        (Err(error), Err(want)) => assert!(error.contains(want), "{error:?} lacks {want:?}"),
        (done, want) => panic!("{entries:?} to {target}: {done:?} instead of {want:?}"),
    }
}

#[test]
fn first_name_goes_into_a_directory_or_takes_the_name_asked_for() {
    let file = &[(FILE, "f", "new")];
    check(file, "dir", Ok(&["dir/f new"]));
    check(file, "dir/", Ok(&["dir/f new"]));
    check(file, "link", Ok(&["dir/f new"]));
    check(file, "other", Ok(&["other new"]));
    check(file, "file", Ok(&["file new"]));
    check(file, "other/", Err("is no directory"));
    check(file, "none/other", Err("its directory must be"));
    check(file, "file/other", Err("its directory must be"));
    let tree = &[(DIR, "t/", ""), (FILE, "t/f", "new")];
    check(tree, "dir", Ok(&["dir/t ", "dir/t/f new"]));
    check(tree, "other", Ok(&["other ", "other/f new"]));
    check(tree, "file", Err("is no directory"));
    let contents = &[(DIR, "./", ""), (FILE, "./f", "new")];
    check(contents, "dir", Ok(&["dir/f new"]));
    check(contents, "other", Ok(&["other ", "other/f new"]));
    check(contents, "file", Err("is no directory"));
    let two = &[(FILE, "f", "1"), (FILE, "g", "2")];
    check(two, "dir", Ok(&["dir/f 1", "dir/g 2"]));
    check(two, "other", Err("only one file or directory"));
    check(&[], "dir", Err("empty"));
    check(
        &[(FILE, "p/q/f", "new")],
        "dir",
        Ok(&["dir/p ", "dir/p/q ", "dir/p/q/f new"]),
    );
    check(&[(FILE, "/f", "new")], "dir", Ok(&["dir/f new"]));
}

#[test]
fn hostile_streams_do_not_leave_the_target() {
    check(&[(FILE, "../f", "x")], "dir", Err("leads out of it"));
    check(&[(FILE, "a/../../f", "x")], "dir", Err("leads out of it"));
    check(&[(FILE, "..", "x")], "other", Err("leads out of it"));
    // A link, and then something through it.
    check(
        &[(LINK, "l", "../.."), (FILE, "l/f", "x")],
        "dir",
        Ok(&["dir/l ", "dir/l/f x"]),
    );
    check(
        &[(LINK, "l", "."), (FILE, "l/f", "x")],
        "dir",
        Err("is no directory"),
    );
    check(
        &[(LINK, "l", "."), (DIR, "l/", ""), (FILE, "l/f", "x")],
        "dir",
        Err("is no directory"),
    );
    check(
        &[(DIR, "t/", ""), (LINK, "t/l", ".."), (FILE, "t/l/g", "x")],
        "other",
        Err("is no directory"),
    );
    // A link that is there, made by somebody else.
    check(&[(FILE, "link/f", "x")], "./", Err("is no directory"));
    // Links to the outside, and those of which that can't be told.
    for to in ["/etc", "..", "a/..", "./a/../..", ""] {
        check(&[(FILE, "f", "x"), (LINK, "l", to)], "dir", Ok(&["dir/f x"]));
    }
    check(&[(LINK, "a/l", "../f")], "dir", Ok(&["dir/a ", "dir/a/l ../f"]));
    check(&[(FILE, "f", "x"), (HARD, "h", "f")], "dir", Ok(&["dir/f x"]));
    check(
        &[(HARD, "h", "../file"), (FILE, "h", "x")],
        "dir",
        Ok(&["dir/h x"]),
    );
    let devices = &[
        (FILE, "f", "x"),
        (EntryType::Char, "c", ""),
        (EntryType::Fifo, "p", ""),
    ];
    check(devices, "dir", Ok(&["dir/f x"]));
    check(&[(FILE, "", "x")], "dir", Err("leads out of it"));
    check(
        &[(FILE, "f", "x"), (FILE, "f/g", "x")],
        "dir",
        Err("Not a directory"),
    );
    check(&[(DIR, "t/", ""), (FILE, "t", "x")], "dir", Err("cannot replace"));
}

#[test]
fn names_of_strangers_are_quoted() {
    let bad = stream(&[(FILE, "\u{1b}[2J/../x", "")]);
    let error = unpacked(&bad, folder().path(), CAREFUL).expect_err("refused");
    assert_eq!(
        error.to_string(),
        r#"the archive names "\u{1b}[2J/../x", which leads out of it"#
    );
}

#[test]
fn path_within_a_root_stays_there() {
    let around = folder();
    let root = around.path().join("root");
    fs::create_dir_all(root.join("etc")).expect("made");
    symlink("/etc", root.join("absolute")).expect("linked");
    symlink("../../..", root.join("etc/up")).expect("linked");
    symlink("/proc/self/root", root.join("magic")).expect("linked");
    let opened = Folder::open(&root).expect("opened");
    let bytes = stream(&[(FILE, "f", "x")]);
    for (target, want) in [
        ("/absolute", "etc/f"),
        ("/etc/up", "f"),
        ("/../../etc/g", "etc/g"),
        ("/etc/up/etc/h", "etc/h"),
    ] {
        let target = Target::inside(&opened, Path::new(target)).expect("found");
        unpack(&*bytes, target, CAREFUL).expect("unpacked");
        assert!(root.join(want).is_file(), "{want}");
    }
    assert!(Target::inside(&opened, Path::new("/magic/tmp")).is_err());
    assert_eq!(fs::read_dir(around.path()).expect("listed").count(), 1);
}

#[test]
fn what_is_no_file_is_left_out() {
    let from = folder();
    let fifo = from.path().join("t/fifo");
    fs::create_dir(from.path().join("t")).expect("made");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
    std::os::unix::net::UnixListener::bind(from.path().join("t/socket")).expect("bound");
    fs::write(from.path().join("t/f"), "x").expect("written");
    let (_, done) = packed(from.path(), "t", "t");
    assert_eq!(
        done,
        Packed {
            entries: 2,
            left_out: 2
        }
    );
    let (_, done) = packed(Path::new("/"), "proc", "proc");
    assert_eq!(
        done,
        Packed {
            entries: 0,
            left_out: 1
        }
    );
    let folder = Folder::open(from.path()).expect("opened");
    let missing = pack(&folder, OsStr::new("none"), Path::new("none"), &mut Vec::new());
    assert!(missing.expect_err("refused").to_string().contains("No such file"));
}

#[test]
fn tree_that_is_too_deep_is_refused() {
    let from = folder();
    let mut path = from.path().join("d");
    for _ in 0..=MAX_DEPTH + 1 {
        fs::create_dir(&path).expect("made");
        path.push("d");
    }
    let folder = Folder::open(from.path()).expect("opened");
    let deep = pack(&folder, OsStr::new("d"), Path::new("d"), &mut Vec::new());
    assert!(matches!(deep, Err(TreeError::Deep { .. })), "{deep:?}");
}

/// Written while it is read: what was announced is sent, whatever the file has become.
#[test]
fn file_that_changes_meanwhile_keeps_its_announced_length() {
    struct Disturb<'a>(Vec<u8>, &'a Path, u64);
    impl std::io::Write for Disturb<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The header comes first, the content behind it.
            if self.0.len() == 512 {
                fs::File::options().write(true).open(self.1)?.set_len(self.2)?;
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for length in [5, 900_000] {
        let (from, to) = (folder(), folder());
        let file = from.path().join("f");
        fs::write(&file, vec![b'x'; 300_000]).expect("written");
        let mut out = Disturb(Vec::new(), &file, length);
        let opened = Folder::open(from.path()).expect("opened");
        pack(&opened, OsStr::new("f"), Path::new("f"), &mut out).expect("packed");
        unpacked(&out.0, to.path(), CAREFUL).expect("unpacked");
        assert_eq!(fs::read(to.path().join("f")).expect("there").len(), 300_000);
    }
}

#[test]
fn stream_that_breaks_leaves_no_half_of_a_file() {
    let to = folder();
    let mut bytes = stream(&[(FILE, "whole", "x"), (FILE, "half", &"y".repeat(2_000))]);
    bytes.truncate(512 * 3 + 700);
    let error = unpacked(&bytes, to.path(), CAREFUL).expect_err("broken");
    assert!(matches!(error, TreeError::Receive(_)), "{error}");
    let names: Vec<_> = listing(to.path()).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, [PathBuf::from("whole")]);
}

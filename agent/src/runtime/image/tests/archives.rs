//! Images from and to archives.

use super::*;
use std::io::Write;
use std::process::Command;

/// Writes an archive with `write` at a path of its own.
fn archive(dir: &Path, write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> PathBuf {
    let mut bytes = Vec::new();
    write(&mut bytes).expect("written");
    let path = dir.join(format!("{}.tar", e2e::image::digest(&bytes)));
    fs::File::create(&path)
        .and_then(|mut f| f.write_all(&bytes))
        .expect("written");
    path
}

fn both(tags: &[&str]) -> Vec<(build::Image, Built)> {
    let images = tags.iter().map(|tag| two_layers(tag));
    images.map(|i| (i.clone(), i.build().expect("built"))).collect()
}

#[tokio::test]
async fn archives_of_both_kinds_are_taken_in() {
    let node = Node::new(RegistryConfig::default());
    let oci = archive(node.dir.path(), |out| {
        e2e::image::oci_archive(&both(&["1", "2"]), out)
    });
    let docker = archive(node.dir.path(), |out| {
        e2e::image::docker_archive(&both(&["3"]), out)
    });
    let name = |tag: &str| format!("docker.io/team/app:{tag}");
    assert_eq!(
        node.store.import(&oci).await.expect("taken in"),
        [name("1"), name("2")]
    );
    assert_eq!(node.store.import(&docker).await.expect("taken in"), [name("3")]);
    for tag in ["1", "2", "3"] {
        check_is_two_layers(&node.store.ensure(&name(tag)).await.expect("there"), tag);
    }
    // The base is one for all.
    assert_eq!((node.layers(), node.count("incoming")), (4, 0));
}

/// What comes out is the same image for who takes it in, and another export of it is the same archive.
async fn check_round(format: ArchiveFormat) {
    let from = Node::new(RegistryConfig::default());
    let there = archive(from.dir.path(), |out| {
        e2e::image::oci_archive(&both(&["1", "2"]), out)
    });
    let names = from.store.import(&there).await.expect("taken in");
    let out = from.dir.path().join("out.tar");
    let size = from.store.export(&names, format, &out).await.expect("exported");
    assert_eq!(fs::metadata(&out).expect("there").len(), size);
    let to = Node::new(RegistryConfig::default());
    let mut taken = to.store.import(&out).await.expect("taken in");
    taken.sort();
    assert_eq!(taken, names);
    for (name, tag) in names.iter().zip(["1", "2"]) {
        let (old, new) = (from.store.ensure(name).await, to.store.ensure(name).await);
        let (old, new) = (old.expect("there"), new.expect("there"));
        check_is_two_layers(&new, tag);
        let layers = |i: &Image| -> Vec<_> {
            i.layers
                .iter()
                .map(|l| l.file_name().map(ToOwned::to_owned))
                .collect()
        };
        assert_eq!(layers(&old), layers(&new));
    }
    let again = from.dir.path().join("again.tar");
    to.store.export(&names, format, &again).await.expect("exported");
    assert!(fs::read(&out).expect("read") == fs::read(&again).expect("read"));
    let listed = Command::new("tar")
        .arg("-tf")
        .arg(&out)
        .output()
        .expect("tar is installed");
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
}

#[tokio::test]
async fn exported_images_are_the_same_for_who_takes_them_in() {
    check_round(ArchiveFormat::Oci).await;
    check_round(ArchiveFormat::Docker).await;
}

#[tokio::test]
async fn what_cannot_be_exported_leaves_the_archive_alone() {
    let node = Node::new(RegistryConfig::default());
    let path = archive(node.dir.path(), |out| e2e::image::oci_archive(&both(&["1"]), out));
    let names = node.store.import(&path).await.expect("taken in");
    let out = node.dir.path().join("out.tar");
    fs::write(&out, "before").expect("written");
    let image = node.store.ensure(&names[0]).await.expect("there");
    fs::write(image.layers[1].join("motd"), "x\n").expect("changed");
    let export = node.store.export(&names, ArchiveFormat::Oci, &out).await;
    let said = export.expect_err("another layer").to_string();
    assert!(said.contains("cannot be made again"), "{said}");
    let missing = node
        .store
        .export(&["none:1".to_owned()], ArchiveFormat::Oci, &out)
        .await;
    let said = missing.expect_err("not there").to_string();
    assert!(
        said.contains("docker.io/library/none:1 is not on this node"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&out).expect("read"), "before");
    assert!(!node.dir.path().join("out.tar.partial").exists());
}

#[tokio::test]
async fn archive_cannot_stand_in_for_a_digest_that_it_has_not() {
    let node = Node::new(RegistryConfig::default());
    let mut other = two_layers("1");
    let built = other.build().expect("built");
    // As the writer of the archive puts it behind the repository.
    other.tags = vec![format!("1@sha256:{}", "a".repeat(64))];
    let path = archive(node.dir.path(), |out| {
        e2e::image::oci_archive(&[(other.clone(), built.clone())], out)
    });
    let said = node.store.import(&path).await.expect_err("refused").to_string();
    assert!(said.contains("has another digest"), "{said}");
    other.tags = vec![format!("1@{}", built.manifest.digest)];
    let path = archive(node.dir.path(), |out| {
        e2e::image::oci_archive(&[(other, built)], out)
    });
    assert_eq!(node.store.import(&path).await.expect("taken in").len(), 1);
}

#[tokio::test]
async fn archives_that_are_none_are_refused() {
    let node = Node::new(RegistryConfig::default());
    for (bytes, why) in [
        (
            &b"no archive at all, yet longer than nothing"[..],
            "cannot import",
        ),
        (
            &[0; 1024][..],
            "neither an OCI image layout nor the work of docker save",
        ),
    ] {
        let path = archive(node.dir.path(), |out| out.write_all(bytes));
        let said = node.store.import(&path).await.expect_err("refused").to_string();
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(
        (node.layers(), node.count("incoming"), node.count("references")),
        (0, 0, 0)
    );
}

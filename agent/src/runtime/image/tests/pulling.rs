//! Images from a registry as it should be.

use super::registry::Registry;
use super::*;
use serde_json::json;

#[tokio::test]
async fn image_of_gzip_and_zstd_layers_arrives_whole_and_stays() {
    let data = tempfile::tempdir().expect("a folder");
    let registry = Registry::filled(data.path(), &[two_layers("1")]).await;
    let node = Node::new(plain(registry.port));
    let name = registry.name("team/app:1");
    let pull = node.store.fetch(&name, Ask::IfMissing).expect("a name");
    let progress = pull.progress();
    let image = pull.await.expect("pulled");
    check_is_two_layers(&image, "1");
    let built = two_layers("1").build().expect("built");
    assert_eq!(image.digest, built.manifest.digest);
    let bytes = built.layers.iter().map(|l| l.bytes.len() as u64).sum();
    let all = Progress {
        layers_done: 2,
        layers: 2,
        bytes_done: bytes,
        bytes,
    };
    assert_eq!(*progress.borrow(), all);
    // Without the registry it is still there, also for who opens the folder anew.
    drop(registry);
    assert!(Arc::ptr_eq(
        &image,
        &node.store.ensure(&name).await.expect("there")
    ));
    let Node { store, dir } = node;
    drop(store);
    let again = ImageStore::open(dir.path().join("images"), RegistryConfig::default()).expect("opened");
    assert_eq!(again.ensure(&name).await.expect("there"), image);
}

#[tokio::test]
async fn index_of_many_platforms_gives_this_nodes() {
    let data = tempfile::tempdir().expect("a folder");
    let registry = Registry::filled(data.path(), &[two_layers("1"), two_layers("2")]).await;
    let entry = |tag: &str, architecture: &str| {
        let manifest = two_layers(tag).build().expect("built").manifest;
        json!({
            "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.bytes.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let put = async |tag: &str, entries: serde_json::Value| {
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        let url = format!("http://127.0.0.1:{}/v2/team/app/manifests/{tag}", registry.port);
        let put = reqwest::Client::new().put(url).header("content-type", media_type);
        let status = put.body(index.to_string()).send().await.expect("sent").status();
        assert!(status.is_success(), "{status}");
        e2e::image::digest(index.to_string().as_bytes())
    };
    let own = build::architecture();
    let digest = put("many", json!([entry("1", "riscv64"), entry("2", own)])).await;
    put("foreign", json!([entry("1", "riscv64"), entry("2", "s390x")])).await;
    let node = Node::new(plain(registry.port));
    let many = node.store.ensure(&registry.name("team/app:many")).await;
    check_is_two_layers(&many.expect("pulled"), "2");
    let pinned = node
        .store
        .ensure(&registry.name(&format!("team/app@{digest}")))
        .await;
    check_is_two_layers(&pinned.expect("pulled"), "2");
    let foreign = node.store.ensure(&registry.name("team/app:foreign")).await;
    let said = foreign.expect_err("refused").to_string();
    assert!(said.contains("only for: linux/riscv64, linux/s390x"), "{said}");
}

#[tokio::test]
async fn mirror_is_asked_first_and_the_registry_after_it() {
    let (one, other) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let mirror = Registry::filled(one.path(), &[two_layers("1")]).await;
    let own = Registry::filled(other.path(), &[two_layers("2")]).await;
    let text = format!("127.0.0.1:{}=http://127.0.0.1:{}", own.port, mirror.port);
    let node = Node::new(RegistryConfig {
        mirrors: vec![text.parse().expect("a mirror")],
        ..plain(own.port)
    });
    let one = node.store.ensure(&own.name("team/app:1")).await;
    check_is_two_layers(&one.expect("from the mirror"), "1");
    let two = node.store.ensure(&own.name("team/app:2")).await;
    check_is_two_layers(&two.expect("from the registry"), "2");
    let none = node.store.ensure(&own.name("team/app:3")).await;
    let said = none.expect_err("nowhere").to_string();
    let asked = |port| said.contains(&format!("http://127.0.0.1:{port}: not found"));
    assert!(asked(mirror.port) && asked(own.port), "{said}");
}

#[tokio::test]
async fn always_asking_finds_what_was_pushed_since() {
    let data = tempfile::tempdir().expect("a folder");
    let registry = Registry::filled(data.path(), &[two_layers("1")]).await;
    let node = Node::new(plain(registry.port));
    let name = registry.name("team/app:1");
    let old = node.store.ensure(&name).await.expect("pulled");
    let mut moved = two_layers("2");
    let built = moved.build().expect("built");
    moved.tags = vec!["1".to_owned()];
    build::push(&format!("http://127.0.0.1:{}", registry.port), &moved, &built)
        .await
        .expect("pushed");
    assert_eq!(node.store.ensure(&name).await.expect("there"), old);
    let new = node.store.fetch(&name, Ask::Always).expect("a name").await;
    check_is_two_layers(&new.expect("pulled"), "2");
    check_is_two_layers(&node.store.ensure(&name).await.expect("there"), "2");
    check_is_two_layers(&old, "1");
}

#[tokio::test]
async fn pulling_ahead_tells_what_did_not_come() {
    let data = tempfile::tempdir().expect("a folder");
    let registry = Registry::filled(data.path(), &[two_layers("1"), two_layers("2")]).await;
    let node = Node::new(plain(registry.port));
    let names = ["team/app:1", "team/app:none", "team/app:2"].map(|n| registry.name(n));
    let missing = node.store.pre_pull(&names).await;
    assert_eq!(missing.iter().map(|(n, _)| n).collect::<Vec<_>>(), [&names[1]]);
    assert_eq!(node.store.list().await.expect("listed").len(), 2);
}

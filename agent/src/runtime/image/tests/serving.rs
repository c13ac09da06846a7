//! The images through their socket, as `sbxlet image` reaches them beside an agent.

use super::registry::Registry;
use super::*;
use proto::wire;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

#[tokio::test]
async fn other_programs_work_on_the_images_of_who_has_them_open() {
    let data = tempfile::tempdir().expect("a folder");
    let registry = Registry::filled(data.path(), &[two_layers("1"), two_layers("2")]).await;
    let (one, two) = (registry.name("team/app:1"), registry.name("team/app:2"));
    let node = Node::new(plain(registry.port));
    let stop = CancellationToken::new();
    let listening = node.store.listen().expect("it listens");
    let serving = AbortOnDropHandle::new(tokio::spawn(listening.serve(stop.clone())));
    let root = node.dir.path().join("images");
    let opened = ImageStore::open(&root, RegistryConfig::default());
    assert!(matches!(opened, Err(ImageError::InUse { .. })));
    let mut images = connect(&root).await.expect("connected");

    let request = wire::PullImageRequest {
        image: one.clone(),
        always: true,
    };
    let mut steps = images.pull_image(request).await.expect("under way").into_inner();
    let mut last = None;
    while let Some(step) = steps.message().await.expect("a step") {
        last = Some(step);
    }
    let last = last.expect("a last step");
    assert_eq!((last.layers_done, last.layers), (2, 2));
    assert_eq!(last.image.expect("the image").reference, one);

    let held = node.store.ensure(&two).await.expect("pulled");
    let listed = images.list_images(wire::ListImagesRequest {}).await;
    let listed = listed.expect("listed").into_inner().images;
    let seen: Vec<_> = listed
        .iter()
        .map(|i| (i.reference.clone(), i.in_use, i.layers))
        .collect();
    assert_eq!(seen, [(one.clone(), false, 2), (two.clone(), true, 2)]);
    assert!(listed.iter().all(|i| i.size_bytes > 300_000 && i.used_at_ms > 0));

    let path = node.dir.path().join("out.tar").display().to_string();
    let request = wire::ExportImagesRequest {
        images: vec![one.clone()],
        path: path.clone(),
        ..Default::default()
    };
    images.export_images(request).await.expect("exported");
    let remove = |image: &String| wire::RemoveImagesRequest {
        images: vec![image.clone()],
    };
    let removed = images
        .remove_images(remove(&one))
        .await
        .expect("removed")
        .into_inner();
    assert_eq!(removed.references, std::slice::from_ref(&one));
    assert!(removed.freed_bytes > 0);
    let refused = images.remove_images(remove(&two)).await.expect_err("in use");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = images.remove_images(remove(&one)).await.expect_err("gone");
    assert_eq!(refused.code(), Code::NotFound);
    let taken = images.import_images(wire::ImportImagesRequest { path }).await;
    let taken = taken.expect("taken in").into_inner();
    assert_eq!(taken.references, std::slice::from_ref(&one));
    drop(held);
    let request = wire::PruneImagesRequest { unused_for_ms: 0 };
    let mut pruned = images.prune_images(request).await.expect("pruned").into_inner();
    pruned.references.sort();
    assert_eq!(pruned.references, [one, two]);
    let relative = wire::ImportImagesRequest {
        path: "in.tar".to_owned(),
    };
    let refused = images.import_images(relative).await.expect_err("no such path");
    assert_eq!(refused.code(), Code::InvalidArgument);
    stop.cancel();
    serving.await.expect("no panic").expect("ended");
}

#[tokio::test]
async fn folder_with_a_long_path_and_an_old_socket_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("n".repeat(200));
    for _ in 0..2 {
        let store = ImageStore::open(&root, RegistryConfig::default()).expect("opened");
        let stop = CancellationToken::new();
        let serving = tokio::spawn(store.listen().expect("it listens").serve(stop.clone()));
        drop(store);
        let mut images = connect(&root).await.expect("connected");
        let listed = images
            .list_images(wire::ListImagesRequest {})
            .await
            .expect("listed");
        assert!(listed.into_inner().images.is_empty());
        drop(images);
        stop.cancel();
        serving.await.expect("no panic").expect("ended");
    }
}

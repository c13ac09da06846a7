//! What goes, and what never does.

use super::registry::Registry;
use super::*;
use crate::runtime::mount::overlay;
use crate::runtime::mount::tests::Pinned;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const NOW: Duration = Duration::ZERO;

/// A node with images of these tags, all with the same base.
async fn node(tags: &[&str], policy: CollectPolicy) -> Node {
    let node = Node::with(RegistryConfig::default(), policy);
    bring(&node, tags).await;
    node
}

async fn bring(node: &Node, tags: &[&str]) {
    let images: Vec<_> = tags.iter().map(|tag| two_layers(tag)).collect();
    let built = images.into_iter().map(|i| (i.clone(), i.build().expect("built")));
    let path = node.dir.path().join("in.tar");
    let file = fs::File::create(&path).expect("made");
    e2e::image::oci_archive(&built.collect::<Vec<_>>(), file).expect("written");
    node.store.import(&path).await.expect("taken in");
}

fn name(tag: &str) -> String {
    format!("docker.io/team/app:{tag}")
}

async fn names(node: &Node) -> Vec<String> {
    let listed = node.store.list().await.expect("listed");
    listed.into_iter().map(|image| image.reference).collect()
}

#[tokio::test]
async fn unused_images_go_and_what_they_share_stays() {
    let node = node(&["1", "2"], CollectPolicy::default()).await;
    let held = node.store.ensure(&name("1")).await.expect("there");
    let removed = node.store.prune(NOW).await.expect("pruned");
    assert_eq!(removed.references, [name("2")]);
    assert!(removed.bytes > 0);
    assert_eq!((names(&node).await, node.layers()), (vec![name("1")], 2));
    check_is_two_layers(&held, "1");
    drop(held);
    assert_eq!(
        node.store.prune(NOW).await.expect("pruned").references,
        [name("1")]
    );
    for folder in ["layers", "recipes", "blobs", "references", "incoming"] {
        assert_eq!(node.count(folder), 0, "{folder}");
    }
}

#[tokio::test]
async fn removing_tells_what_is_used_and_what_is_not_there() {
    let node = node(&["1", "2"], CollectPolicy::default()).await;
    let held = node.store.ensure(&name("1")).await.expect("there");
    let both = [name("2"), name("1")];
    let said = node.store.remove(&both).await.expect_err("in use").to_string();
    assert_eq!(said, format!("cannot remove {}: a sandbox uses it", name("1")));
    assert_eq!(names(&node).await.len(), 2);
    drop(held);
    let removed = node
        .store
        .remove(&["team/app:2".to_owned()])
        .await
        .expect("removed");
    assert_eq!(removed.references, [name("2")]);
    let said = node.store.remove(&both).await.expect_err("gone").to_string();
    assert_eq!(said, format!("{} is not on this node", name("2")));
}

#[tokio::test]
async fn image_whose_name_was_taken_over_stays_while_it_is_held() {
    let node = node(&["1"], CollectPolicy::default()).await;
    let held = node.store.ensure(&name("1")).await.expect("there");
    let mut other = two_layers("2");
    let built = other.build().expect("built");
    other.tags = vec!["1".to_owned()];
    let path = node.dir.path().join("other.tar");
    e2e::image::oci_archive(&[(other, built)], fs::File::create(&path).expect("made")).expect("written");
    node.store.import(&path).await.expect("taken in");
    assert_eq!(
        node.store.prune(NOW).await.expect("pruned").references,
        [name("1")]
    );
    check_is_two_layers(&held, "1");
    drop(held);
    node.store.prune(NOW).await.expect("pruned");
    assert_eq!(node.layers(), 0);
}

/// An overlay at `root` in a folder of its own.
struct Mounted(TempDir);

impl Mounted {
    fn with(mount: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["root", "writable"] {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        mount(dir.path());
        Self(dir)
    }

    /// As mount(2) does it.
    fn by_one_option(layers: &[PathBuf]) -> Self {
        let lower: Vec<_> = layers.iter().rev().map(|l| l.display().to_string()).collect();
        let options = format!("lowerdir={}", lower.join(":"));
        let (kind, flags) = (Some("overlay"), MsFlags::MS_RDONLY);
        Self::with(|dir| {
            let mounted = mount(kind, &dir.join("root"), kind, flags, Some(options.as_str()));
            mounted.expect("mounted, as root");
        })
    }

    /// As sandboxes get it.
    fn as_sandboxes(layers: &[PathBuf]) -> Self {
        Self::with(|dir| {
            overlay(&dir.join("root"), layers, &dir.join("writable"), None).expect("mounted, as root");
        })
    }

    /// As those with a user namespace of their own get it.
    fn in_a_user_namespace(layers: &[PathBuf]) -> Self {
        Self::with(|dir| {
            let pinned = Pinned::below(dir);
            let (root, writable) = (dir.join("root"), dir.join("writable"));
            overlay(&root, layers, &writable, Some(&pinned.namespace)).expect("mounted, as root");
        })
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.root(), MntFlags::MNT_DETACH);
    }
}

async fn check_mounted_stays(mount: impl Fn(&[PathBuf]) -> Mounted) {
    let Node { store, dir } = node(&["1", "2"], CollectPolicy::default()).await;
    let layers = store.ensure(&name("1")).await.expect("there").layers.clone();
    let mounted = mount(&layers);
    drop(store);
    let store = ImageStore::open(dir.path().join("images"), RegistryConfig::default()).expect("opened");
    let node = Node { store, dir };
    let used: Vec<_> = node
        .store
        .list()
        .await
        .expect("listed")
        .iter()
        .map(|i| i.in_use)
        .collect();
    assert_eq!(used, [true, false]);
    assert_eq!(
        node.store.prune(NOW).await.expect("pruned").references,
        [name("2")]
    );
    assert!(node.store.remove(&[name("1")]).await.is_err());
    assert!(mounted.root().join("motd").exists());
    drop(mounted);
    assert_eq!(
        node.store.prune(NOW).await.expect("pruned").references,
        [name("1")]
    );
}

#[tokio::test]
async fn mounted_layers_stay_for_an_agent_that_has_given_them_out_in_an_earlier_life() {
    check_mounted_stays(Mounted::by_one_option).await;
    check_mounted_stays(Mounted::as_sandboxes).await;
    check_mounted_stays(Mounted::in_a_user_namespace).await;
}

#[tokio::test]
async fn full_disk_takes_the_longest_unused_first_but_not_what_is_kept_recent_or_from_an_archive() {
    // Every disk is fuller than this, and stays so.
    let mut policy = CollectPolicy {
        grace: Duration::from_secs(60),
        unused_for: None,
        full_percent: 0,
        freed_percent: 0,
        keep: Vec::new(),
    };
    let data = tempfile::tempdir().expect("a folder");
    let images = ["kept", "old", "older", "recent"].map(two_layers);
    let registry = Registry::filled(data.path(), &images).await;
    policy.keep = vec![registry.name("team/app:kept")];
    let node = Node::with(plain(registry.port), policy.clone());
    bring(&node, &["archived"]).await;
    let name = |tag: &str| registry.name(&format!("team/app:{tag}"));
    for tag in ["kept", "old", "older", "recent"] {
        drop(node.store.ensure(&name(tag)).await.expect("pulled"));
    }
    let archived = super::collecting::name("archived");
    let ages = [("kept", 4000), ("old", 2000), ("older", 3000), ("recent", 10)];
    let ages = ages.map(|(tag, age)| (name(tag), age));
    for (name, age) in ages.into_iter().chain([(archived.clone(), 5000)]) {
        let file = Digest::of(name.as_bytes()).hex().to_owned() + ".json";
        let path = node.dir.path().join("images/references").join(file);
        let used = SystemTime::now() - Duration::from_secs(age);
        fs::File::open(path)
            .and_then(|f| f.set_modified(used))
            .expect("set");
    }
    let removed = node.store.tidy().await.expect("tidied");
    assert_eq!(removed.references, [name("older"), name("old")]);
    assert_eq!(
        names(&node).await,
        [name("kept"), name("recent"), archived.clone()]
    );
    // By use alone, on a disk with room.
    let policy = CollectPolicy {
        unused_for: Some(Duration::from_secs(2500)),
        full_percent: 100,
        freed_percent: 100,
        keep: Vec::new(),
        ..policy
    };
    let removed = node.store.inner.tidy(&policy).expect("tidied");
    assert_eq!(removed.references, [name("kept")]);
    // Who asks for it gets it done, also with what came from an archive.
    let pruned = node.store.prune(Duration::from_secs(2500)).await.expect("pruned");
    assert_eq!(pruned.references, [archived]);
}

#[tokio::test]
async fn use_is_noted_for_a_later_life() {
    let Node { store, dir } = node(&["1"], CollectPolicy::default()).await;
    let reference = Digest::of(name("1").as_bytes()).hex().to_owned() + ".json";
    let path = dir.path().join("images/references").join(reference);
    let long_ago = SystemTime::UNIX_EPOCH;
    fs::File::open(&path)
        .and_then(|f| f.set_modified(long_ago))
        .expect("set");
    drop(store.ensure(&name("1")).await.expect("there"));
    drop(store);
    let store = ImageStore::open(dir.path().join("images"), RegistryConfig::default()).expect("opened");
    assert_eq!(
        store.prune(Duration::from_secs(3600)).await.expect("pruned"),
        Removed::default()
    );
}

#[tokio::test]
async fn layers_of_a_pull_under_way_stay() {
    let node = node(&["1", "2"], CollectPolicy::default()).await;
    let store = node.store.inner.store.clone();
    let image = node.store.ensure(&name("1")).await.expect("there");
    let hex = |path: &PathBuf| {
        path.file_name()
            .and_then(|n| n.to_str())
            .expect("a name")
            .to_owned()
    };
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|l| Digest::parse(&format!("sha256:{}", hex(l))).expect("one"))
        .collect();
    let claim = store.claim(&layers);
    drop(image);
    assert_eq!(node.store.prune(NOW).await.expect("pruned").references.len(), 2);
    assert_eq!((node.layers(), node.count("recipes")), (2, 2));
    drop(claim);
    node.store.prune(NOW).await.expect("pruned");
    assert_eq!((node.layers(), node.count("recipes")), (0, 0));
}

#[tokio::test]
async fn collection_that_was_killed_is_finished_when_the_folder_is_opened() {
    let Node { store, dir } = node(&["1"], CollectPolicy::default()).await;
    let folder = dir.path().join("images");
    // Taken out of its place, and not yet removed; its name was gone before.
    let layers = store.ensure(&name("1")).await.expect("there").layers.clone();
    for entry in fs::read_dir(folder.join("references")).expect("read") {
        fs::remove_file(entry.expect("one").path()).expect("removed");
    }
    fs::rename(&layers[0], folder.join("incoming/7")).expect("taken away");
    drop(store);
    let store = ImageStore::open(&folder, RegistryConfig::default()).expect("opened");
    let node = Node { store, dir };
    assert_eq!((node.count("incoming"), node.layers()), (0, 1));
    assert_eq!(names(&node).await, Vec::<String>::new());
    node.store.prune(NOW).await.expect("pruned");
    assert_eq!(
        (node.layers(), node.count("blobs"), node.count("recipes")),
        (0, 0, 0)
    );
    bring(&node, &["1"]).await;
    check_is_two_layers(&node.store.ensure(&name("1")).await.expect("there"), "1");
}

/// Ten at once bring, use and collect the same images; whoever holds one finds it whole.
#[tokio::test(flavor = "multi_thread")]
async fn collecting_beside_bringing_and_using_loses_nothing() {
    let node = Arc::new(node(&["1", "2"], CollectPolicy::default()).await);
    let path = node.dir.path().join("in.tar");
    let users = (0..8).map(|i| {
        let (node, path) = (node.clone(), path.clone());
        tokio::spawn(async move {
            let tag = if i % 2 == 0 { "1" } else { "2" };
            for _ in 0..5 {
                node.store.import(&path).await.expect("taken in");
                let image = node.store.fetch(&name(tag), Ask::IfMissing).expect("a name");
                // It may be collected in between: then nobody knows of it, and a registry would be asked.
                let image = tokio::time::timeout(Duration::from_millis(500), image).await;
                if let Ok(Ok(image)) = image {
                    tokio::task::yield_now().await;
                    check_is_two_layers(&image, tag);
                }
            }
        })
    });
    let users: Vec<_> = users.collect();
    let collector = async {
        for _ in 0..20 {
            node.store.prune(NOW).await.expect("pruned");
        }
    };
    let (users, ()) = futures::join!(futures::future::join_all(users), collector);
    for user in users {
        user.expect("all whole");
    }
    node.store.prune(NOW).await.expect("pruned");
    assert_eq!((node.layers(), node.count("references")), (0, 0));
}

/// Every form in which the folder has ever been written.
#[tokio::test]
async fn records_of_earlier_releases_are_read() {
    let Node { store, dir } = node(&["1"], CollectPolicy::default()).await;
    let manifest = store.ensure(&name("1")).await.expect("there").digest.clone();
    drop(store);
    let file = Digest::of(name("1").as_bytes()).hex().to_owned() + ".json";
    let path = dir.path().join("images/references").join(file);
    let (reference, old) = (name("1"), r#"{"reference":"NAME","manifest":"DIGEST"}"#);
    let new = r#"{"reference":"NAME","manifest":"DIGEST","imported":true}"#;
    let filled = |form: &str| form.replace("NAME", &reference).replace("DIGEST", &manifest);
    assert_eq!(fs::read_to_string(&path).expect("read"), filled(new));
    fs::write(&path, filled(old)).expect("written");
    let store = ImageStore::open(dir.path().join("images"), RegistryConfig::default()).expect("opened");
    check_is_two_layers(&store.ensure(&name("1")).await.expect("there"), "1");
}

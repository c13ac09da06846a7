//! The folder of images on real parts: Debian's `docker-registry`, real archives, real overlays. Where a transfer has to
//! go wrong, a small server of our own does that ([`breaking`]). Needs root, docker-registry and openssl.

mod archives;
mod auth;
mod breaking;
mod collecting;
mod pulling;
mod registry;
mod serving;
mod transfers;

use super::*;
use e2e::image as build;
use e2e::image::{Built, Compression, Entry};
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;

/// An image of two layers, as one has it after `FROM base` and one change.
fn two_layers(tag: &str) -> build::Image {
    let base = build::Layer {
        compression: Compression::Gzip,
        entries: vec![
            Entry::directory("bin", 0o755),
            Entry::file("bin/tool", 0o755, noise(300_000, 1)),
            Entry::hard_link("bin/alias", "bin/tool"),
            Entry::symlink("sh", "bin/tool"),
            Entry::file("gone", 0o644, "below"),
        ],
    };
    let change = build::Layer {
        compression: Compression::Zstd,
        entries: vec![
            Entry::file(".wh.gone", 0o644, ""),
            Entry::file("motd", 0o600, format!("{tag}\n")).owned_by(7, 8),
        ],
    };
    build::Image {
        repository: "team/app".to_owned(),
        tags: vec![tag.to_owned()],
        layers: vec![base, change],
        entrypoint: vec!["/bin/tool".to_owned()],
        env: vec!["A=b".to_owned()],
        ..build::Image::default()
    }
}

/// Bytes that don't compress, always the same.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A store in a folder of its own.
struct Node {
    store: ImageStore,
    dir: TempDir,
}

impl Node {
    fn new(config: RegistryConfig) -> Self {
        Self::with(config, CollectPolicy::default())
    }

    fn with(config: RegistryConfig, policy: CollectPolicy) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let store = ImageStore::open_with(dir.path().join("images"), config, policy).expect("opened");
        Self { store, dir }
    }

    /// Which folders of layers there are.
    fn layers(&self) -> usize {
        self.count("layers")
    }

    fn count(&self, folder: &str) -> usize {
        let folder = self.dir.path().join("images").join(folder);
        fs::read_dir(folder).expect("read").count()
    }
}

/// Asks the registry at `port` without TLS.
fn plain(port: u16) -> RegistryConfig {
    RegistryConfig {
        transports: BTreeMap::from([(format!("127.0.0.1:{port}"), Transport::Plain)]),
        ..RegistryConfig::default()
    }
}

#[track_caller]
fn check_is_two_layers(image: &Image, tag: &str) {
    assert_eq!(image.config.entrypoint, ["/bin/tool"]);
    assert_eq!(image.config.env, ["A=b"]);
    let [base, change] = image.layers.as_slice() else {
        panic!("{:?}", image.layers)
    };
    assert_eq!(
        fs::read(base.join("bin/alias")).expect("a link"),
        noise(300_000, 1)
    );
    assert_eq!(
        fs::read_to_string(change.join("motd")).expect("motd"),
        format!("{tag}\n")
    );
}

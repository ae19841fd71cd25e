//! A store in a directory of its own, images made up on the spot, and a registry that
//! says what a test wants it to.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod fake;
pub mod made;

use std::{path::PathBuf, sync::Arc, time::Duration};

use images::{Images, ImagesOptions, Platform};
use snapshots::Snapshots;
use tempfile::TempDir;

/// A store.
pub struct Bed {
    pub dir: TempDir,
    pub snapshots: Snapshots,
    pub images: Arc<Images>,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ImagesOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (snapshots, images) = open(&dir, change);
        Self { dir, snapshots, images }
    }

    /// Opens the store again, as another process would.
    pub fn again(self) -> Self {
        self.again_with(|_| {})
    }

    pub fn again_with(self, change: impl FnOnce(&mut ImagesOptions)) -> Self {
        let Self { dir, snapshots, images } = self;
        drop((images, snapshots));
        let (snapshots, images) = open(&dir, change);
        Self { dir, snapshots, images }
    }

    /// Writes a file beside the store: `registries.conf`, `policy.json`.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// The directory of a layer.
    pub fn layer_dir(&self, layer: types::DiffId) -> PathBuf {
        self.dir.path().join("snapshots/layers").join(layer.0.hex())
    }

    /// Writes a `hosts.toml`.
    pub fn hosts(&self, domain: &str, text: &str) {
        let dir = certs_dir(&self.dir).join(domain);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    /// Nothing of a pull is left but what is whole.
    pub fn assert_tidy(&self) {
        let count = |name: &str| {
            let dir = self.dir.path().join("snapshots").join(name);
            std::fs::read_dir(dir).unwrap().count()
        };
        assert_eq!((count("new"), count("trash")), (0, 0));
        assert!(self.images.pulls().is_empty());
    }

    /// The text of a file of an image.
    pub fn text(&self, image: &types::Image, path: &str) -> Option<String> {
        let path = std::path::Path::new(path);
        let bytes = self.snapshots.view_file(&image.layers, path, 1 << 20).unwrap()?;
        Some(String::from_utf8(bytes).unwrap())
    }
}

fn certs_dir(dir: &TempDir) -> PathBuf {
    dir.path().join("certs.d")
}

fn open(dir: &TempDir, change: impl FnOnce(&mut ImagesOptions)) -> (Snapshots, Arc<Images>) {
    let snapshots = Snapshots::open(&dir.path().join("snapshots")).unwrap();
    let mut options = ImagesOptions::new(dir.path().join("images"));
    options.certs_dirs = vec![certs_dir(dir)];
    options.registries_conf = dir.path().join("registries.conf");
    options.policy = dir.path().join("policy.json");
    options.reserve_bytes = 0;
    options.platform = Platform::of("amd64", &["v1"]);
    options.network.backoff = Duration::from_millis(1);
    options.network.progress_timeout = Duration::from_secs(10);
    change(&mut options);
    let images = Images::open(options, snapshots.clone()).unwrap();
    (snapshots, images)
}

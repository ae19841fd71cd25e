//! Which images there are, under which names: in memory, with a synced record each.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use state::{Durability, Store, StoreError};
use types::{Digest, DiffId, Image, ImageId};

use crate::reference::{Reference, Version};

/// The shortest part of an id that an image is found by.
const MIN_ID_PREFIX: usize = 4;

/// The images.
#[derive(Debug)]
pub(crate) struct Catalog {
    store: Store,
    images: Mutex<BTreeMap<ImageId, Arc<Image>>>,
    pinned: HashSet<String>,
}

impl Catalog {
    /// Reads the records. An image whose layers are not all there is not listed: a new
    /// pull brings it back.
    pub(crate) fn open(
        store: Store,
        pinned: &[String],
        has_layer: impl Fn(&DiffId) -> bool,
    ) -> Result<Self, StoreError> {
        let mut images = BTreeMap::new();
        for loaded in store.load_all::<Image>()? {
            match loaded.value {
                Ok(image) if image.id.0.hex() == loaded.name && image.layers.iter().all(&has_layer) => {
                    images.insert(image.id, Arc::new(image));
                }
                other => {
                    let why = other.err().map_or_else(|| "not all of its layers are there".to_owned(), |e| e.to_string());
                    tracing::warn!(image = %loaded.name, "the image is not usable and is forgotten: {why}");
                    store.remove(&loaded.name)?;
                }
            }
        }
        let pinned = pinned.iter().map(|name| normal(name)).collect();
        Ok(Self { store, images: Mutex::new(images), pinned })
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.images.lock().values().map(|image| self.with_pin(image)).collect()
    }

    pub(crate) fn get(&self, text: &str) -> Option<Arc<Image>> {
        let images = self.images.lock();
        let id = find(&images, text)?;
        images.get(&id).map(|image| self.with_pin(image))
    }

    fn with_pin(&self, image: &Arc<Image>) -> Arc<Image> {
        let pinned = image.repo_tags.iter().chain(&image.repo_digests).any(|name| self.pinned.contains(name));
        if pinned == image.pinned {
            return image.clone();
        }
        Arc::new(Image { pinned, ..Image::clone(image) })
    }

    /// All layers that an image needs.
    pub(crate) fn layers(&self) -> HashSet<DiffId> {
        self.images.lock().values().flat_map(|image| image.layers.iter().copied()).collect()
    }

    /// Adds an image, or names to one that is there. A tag is one image's only: another
    /// one loses it.
    pub(crate) fn add(&self, new: Image) -> Result<Arc<Image>, StoreError> {
        let mut images = self.images.lock();
        let mut image = match images.get(&new.id) {
            Some(known) => Image {
                repo_tags: joined(&known.repo_tags, &new.repo_tags),
                repo_digests: joined(&known.repo_digests, &new.repo_digests),
                created_at_ns: known.created_at_ns,
                ..new
            },
            None => new,
        };
        image.pinned = false;
        self.put(&image)?;
        let image = Arc::new(image);
        images.insert(image.id, image.clone());
        let losers: Vec<Arc<Image>> = images
            .values()
            .filter(|other| other.id != image.id && other.repo_tags.iter().any(|t| image.repo_tags.contains(t)))
            .cloned()
            .collect();
        for loser in losers {
            let mut loser = Image::clone(&loser);
            loser.repo_tags.retain(|tag| !image.repo_tags.contains(tag));
            self.put(&loser)?;
            images.insert(loser.id, Arc::new(loser));
        }
        Ok(self.with_pin(&image))
    }

    fn put(&self, image: &Image) -> Result<(), StoreError> {
        self.store.put(&image.id.0.hex(), image, Durability::PowerCut)
    }

    /// Removes the image that `text` names, under all of its names.
    pub(crate) fn remove(&self, text: &str) -> Result<Option<ImageId>, (ImageId, StoreError)> {
        let mut images = self.images.lock();
        let Some(id) = find(&images, text) else { return Ok(None) };
        self.store.remove(&id.0.hex()).map_err(|source| (id, source))?;
        images.remove(&id);
        Ok(Some(id))
    }
}

fn joined(known: &[String], new: &[String]) -> Vec<String> {
    let mut all = known.to_vec();
    all.extend(new.iter().filter(|name| !known.contains(name)).cloned());
    all.sort();
    all
}

fn normal(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |r| r.to_string())
}

/// Finds by id, then by name, then by the start of an id.
fn find(images: &BTreeMap<ImageId, Arc<Image>>, text: &str) -> Option<ImageId> {
    let with_algorithm = if text.starts_with("sha256:") { text.to_owned() } else { format!("sha256:{text}") };
    if let Ok(digest) = with_algorithm.parse::<Digest>() {
        let id = ImageId(digest);
        if images.contains_key(&id) {
            return Some(id);
        }
    }
    if let Ok(reference) = text.parse::<Reference>() {
        let name = reference.to_string();
        let names = |image: &Image| match reference.version() {
            Version::Digest(digest) => image.repo_digests.contains(&reference.at_digest(*digest)),
            Version::Tag(_) => image.repo_tags.contains(&name),
        };
        if let Some(image) = images.values().find(|image| names(image)) {
            return Some(image.id);
        }
    }
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    let is_prefix = prefix.len() >= MIN_ID_PREFIX && prefix.bytes().all(|b| b.is_ascii_hexdigit());
    let mut matching = images.keys().filter(|id| is_prefix && id.0.hex().starts_with(prefix));
    match (matching.next(), matching.next()) {
        (Some(one), None) => Some(*one),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(n: u8, tags: &[&str], digests: &[&str]) -> Image {
        let digest = Digest::from_bytes([n; 32]);
        Image {
            id: ImageId(digest),
            repo_tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            repo_digests: digests.iter().map(|d| (*d).to_owned()).collect(),
            manifest: digest,
            size_bytes: 1,
            layers: vec![DiffId(digest)],
            config: types::ImageConfig::default(),
            created_at_ns: 1,
            pinned: false,
        }
    }

    fn catalog(dir: &std::path::Path) -> Catalog {
        let store = Store::open(dir, "image", 1).unwrap();
        Catalog::open(store, &["busybox".to_owned()], |_| true).unwrap()
    }

    const BUSYBOX: &str = "docker.io/library/busybox:latest";

    #[test]
    fn one_image_has_many_names_and_one_tag_one_image() {
        let dir = tempfile::tempdir().unwrap();
        let all = catalog(dir.path());
        let by_digest = format!("x.io/a@sha256:{}", "11".repeat(32));
        all.add(image(1, &[BUSYBOX], &[])).unwrap();
        all.add(image(1, &["x.io/a:1"], &[&by_digest])).unwrap();
        assert_eq!(all.list().len(), 1);
        for name in ["busybox", BUSYBOX, "x.io/a:1", &by_digest, &"01".repeat(32), "0101", &format!("sha256:{}", "01".repeat(32))] {
            assert_eq!(all.get(name).unwrap().repo_tags, [BUSYBOX, "x.io/a:1"], "{name}");
        }
        assert!(all.get("busybox").unwrap().pinned);
        for name in ["x.io/a", "x.io/a:2", "01", "zz", "", "busybox:1"] {
            assert!(all.get(name).is_none(), "{name}");
        }
        all.add(image(2, &["x.io/a:1"], &[])).unwrap();
        assert_eq!(all.get("x.io/a:1").unwrap().id, image(2, &[], &[]).id);
        assert_eq!(all.get("busybox").unwrap().repo_tags, [BUSYBOX]);
        // After a restart the same.
        let again = catalog(dir.path());
        assert_eq!(again.list(), all.list());
        assert_eq!(again.remove("busybox").unwrap(), Some(image(1, &[], &[]).id));
        assert_eq!(again.remove("busybox").unwrap(), None);
        assert!(again.get(&by_digest).is_none());
        assert_eq!(again.list().len(), 1);
    }

    #[test]
    fn an_image_without_its_layers_is_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        catalog(dir.path()).add(image(1, &[BUSYBOX], &[])).unwrap();
        let store = Store::open(dir.path(), "image", 1).unwrap();
        assert!(Catalog::open(store, &[], |_| false).unwrap().list().is_empty());
        assert!(catalog(dir.path()).list().is_empty(), "and its record is gone");
    }
}

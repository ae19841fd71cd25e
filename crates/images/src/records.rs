//! The catalog with its records on disk: written first, shown then.
//!
//! Readers never wait for the disk: they share the catalog's lock only with changes
//! in memory. Writers wait for each other.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use state::{Durability, Store, StoreError};
use types::{DiffId, Digest, Image, ImageId};

use crate::catalog::{Catalog, ImageRecord};

/// The images and their records.
#[derive(Debug)]
pub(crate) struct Records {
    store: Store,
    catalog: RwLock<Catalog>,
    /// Held by the one who writes: the images whose record on disk still has a name
    /// that they have lost.
    writing: Mutex<BTreeSet<ImageId>>,
}

impl Records {
    /// Reads the records. An image that is damaged, or whose layers are not all there,
    /// is forgotten: a new pull brings it back.
    pub fn open(
        store: Store,
        pinned: &[String],
        has_layer: impl Fn(&DiffId) -> bool,
    ) -> Result<Self, StoreError> {
        let mut catalog = Catalog::new(pinned);
        let mut read = BTreeMap::new();
        for loaded in store.load_all::<ImageRecord>()? {
            let why = match loaded.value {
                Ok(record) if record.id.0.hex() != loaded.name => {
                    "it is another image's".to_owned()
                }
                Ok(record) if !record.layers.iter().all(&has_layer) => {
                    "not all of its layers are there".to_owned()
                }
                Ok(record) => {
                    read.insert(record.id, record.clone());
                    catalog.put(record);
                    continue;
                }
                Err(damage) => damage.to_string(),
            };
            tracing::warn!(image = %loaded.name, why, "an image is not usable and is forgotten");
            store.remove(&loaded.name)?;
        }
        let stale =
            catalog.records().filter(|r| read.get(&r.id) != Some(r)).map(|r| r.id).collect();
        let records = Self { store, catalog: RwLock::new(catalog), writing: Mutex::new(stale) };
        records.catch_up(&mut records.writing.lock());
        Ok(records)
    }

    pub fn list(&self) -> Vec<Arc<Image>> {
        self.catalog.read().list()
    }

    pub fn get(&self, text: &str) -> Option<Arc<Image>> {
        self.catalog.read().get(text)
    }

    /// Returns the layers of all images.
    pub fn layers(&self) -> HashSet<DiffId> {
        self.catalog.read().layers()
    }

    /// Returns the blobs of the layers of all images.
    pub fn blobs(&self) -> HashSet<Digest> {
        self.catalog.read().blobs()
    }

    /// Forgets the images that need a layer: it is not there, or damaged. Returns them.
    pub fn forget_with(&self, layer: DiffId) -> Result<Vec<ImageId>, StoreError> {
        let mut stale = self.writing.lock();
        self.catch_up(&mut stale);
        let with = |image: &Arc<Image>| image.layers.contains(&layer).then_some(image.id);
        let ids: Vec<_> = self.catalog.read().list().iter().filter_map(with).collect();
        for id in &ids {
            self.store.remove(&id.0.hex())?;
            self.catalog.write().remove(*id);
        }
        Ok(ids)
    }

    /// Adds an image, or names to one that is there. Blocks.
    pub fn add(&self, new: Image, blobs: Vec<Digest>) -> Result<Arc<Image>, StoreError> {
        let mut stale = self.writing.lock();
        self.catch_up(&mut stale);
        let mut records = self.catalog.read().plan(new, blobs).into_iter();
        let Some(record) = records.next() else {
            unreachable!("a plan begins with the image that is added")
        };
        self.write(&record)?;
        let image = self.catalog.write().put(record);
        for loser in records {
            stale.insert(loser.id);
            self.catalog.write().put(loser);
        }
        self.catch_up(&mut stale);
        Ok(image)
    }

    /// Removes the image that `text` names, under all of its names. Needs no free disk
    /// block. Blocks.
    pub fn remove(&self, text: &str) -> Result<Option<ImageId>, (ImageId, StoreError)> {
        let mut stale = self.writing.lock();
        self.catch_up(&mut stale);
        let Some(id) = self.catalog.read().find(text) else { return Ok(None) };
        self.store.remove(&id.0.hex()).map_err(|source| (id, source))?;
        self.catalog.write().remove(id);
        Ok(Some(id))
    }

    /// Writes the records of images that lost names. That this fails is not fatal: when
    /// the records are read again the later claim to a name wins.
    fn catch_up(&self, stale: &mut BTreeSet<ImageId>) {
        stale.retain(|id| {
            let Some(record) = self.catalog.read().record(*id).cloned() else { return false };
            let written = self.write(&record);
            if let Err(error) = &written {
                tracing::warn!(image = %id, %error, "the record of an image that lost a name is stale");
            }
            written.is_err()
        });
    }

    fn write(&self, record: &ImageRecord) -> Result<(), StoreError> {
        self.store.put(&record.id.0.hex(), record, Durability::PowerCut)
    }
}

#[cfg(test)]
mod tests {
    use types::ImageConfig;

    use super::*;

    fn image(n: u8, tag: &str) -> Image {
        let digest = Digest::from_bytes([n; 32]);
        Image {
            id: ImageId(digest),
            repo_tags: vec![tag.to_owned()],
            repo_digests: vec![format!("x.io/a@{digest}")],
            manifest: digest,
            size_bytes: 1,
            layers: vec![DiffId(digest)],
            config: ImageConfig::default(),
            created_at_ns: 1,
            pinned: false,
        }
    }

    fn open(dir: &std::path::Path, has_layer: impl Fn(&DiffId) -> bool) -> Records {
        let store = Store::open(dir, "image", 1).unwrap();
        Records::open(store, &[], has_layer).unwrap()
    }

    #[test]
    fn records_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let records = open(dir.path(), |_| true);
        records.add(image(1, "x.io/a:1"), Vec::new()).unwrap();
        records.add(image(2, "x.io/a:1"), Vec::new()).unwrap();
        records.add(image(3, "x.io/b:1"), Vec::new()).unwrap();
        assert_eq!(records.remove("x.io/b:1").unwrap(), Some(image(3, "").id));
        assert_eq!(records.remove("x.io/b:1").unwrap(), None);
        let again = open(dir.path(), |_| true);
        assert_eq!(again.list(), records.list());
        assert_eq!(again.get("x.io/a:1").unwrap().id, image(2, "").id);
    }

    #[test]
    fn what_is_not_whole_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let records = open(dir.path(), |_| true);
        for n in 1..=3 {
            records.add(image(n, &format!("x.io/a:{n}")), Vec::new()).unwrap();
        }
        let damaged = dir.path().join(image(3, "").id.0.hex());
        std::fs::write(&damaged, "junk").unwrap();
        let again = open(dir.path(), |layer| *layer != image(2, "").layers[0]);
        assert_eq!(again.list().len(), 1);
        assert!(again.get("x.io/a:1").is_some());
        assert!(!damaged.exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

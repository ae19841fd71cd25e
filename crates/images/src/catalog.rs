//! Which images there are, and under which names. Pure: the rules of names, with
//! no disk in sight.
//!
//! An image is what its configuration's digest names. Names point to images: a name
//! with a tag to one at a time, the newest; a name with a digest for ever. Removing
//! an image by any of its names removes it whole.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use types::{DiffId, Digest, Image, ImageConfig, ImageId};

use crate::{pins::Pins, reference::Reference};

/// The least digits of an id that are looked up: fewer would hit by accident.
const MIN_PREFIX_DIGITS: usize = 4;

/// What is kept of an image on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// The digest of its configuration.
    pub id: ImageId,
    /// The digest of the manifest that it was last stored with.
    pub manifest: Digest,
    /// Compressed layers and configuration, in bytes.
    pub size_bytes: u64,
    /// Its layers, the lowest first.
    pub layers: Vec<DiffId>,
    /// What it asks of a container.
    pub config: ImageConfig,
    /// When it was first stored, in nanoseconds since 1970.
    pub created_at_ns: i64,
    /// Its names with a tag, and when each was given: after a crash between the
    /// record that gains a name and the one that loses it, the higher number wins.
    pub tags: BTreeMap<String, u64>,
    /// Its names with a digest.
    pub digests: BTreeSet<String>,
    /// The digests of its layers as they were stored at a registry.
    #[serde(default)]
    pub blobs: Vec<Digest>,
}

/// The images and their names.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    images: BTreeMap<ImageId, (ImageRecord, Arc<Image>)>,
    names: HashMap<String, ImageId>,
    pinned: Pins,
    last_given: u64,
}

impl Catalog {
    /// Makes an empty catalog. `pinned` are names and ids; see [`Pins`].
    pub fn new(pinned: &[String]) -> Self {
        Self { pinned: Pins::new(pinned), ..Self::default() }
    }

    /// Returns the image of an id, a name, or a unique prefix of an id, in this order.
    pub fn get(&self, text: &str) -> Option<Arc<Image>> {
        self.find(text).and_then(|id| self.images.get(&id)).map(|(_, image)| image.clone())
    }

    /// Returns all images, in the order of their ids.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.images.values().map(|(_, image)| image.clone()).collect()
    }

    /// Returns all records, in the order of their ids.
    pub fn records(&self) -> impl Iterator<Item = &ImageRecord> {
        self.images.values().map(|(record, _)| record)
    }

    /// Returns an image's record.
    pub fn record(&self, id: ImageId) -> Option<&ImageRecord> {
        self.images.get(&id).map(|(record, _)| record)
    }

    /// Returns the layers of all images.
    pub fn layers(&self) -> HashSet<DiffId> {
        self.images.values().flat_map(|(record, _)| record.layers.iter().copied()).collect()
    }

    /// Returns the blobs of the layers of all images.
    pub fn blobs(&self) -> HashSet<Digest> {
        self.images.values().flat_map(|(record, _)| record.blobs.iter().copied()).collect()
    }

    /// Returns the id behind a text.
    pub fn find(&self, text: &str) -> Option<ImageId> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if let Ok(id) = format!("sha256:{digits}").parse::<ImageId>() {
            return self.images.contains_key(&id).then_some(id);
        }
        if let Ok(reference) = text.parse::<Reference>()
            && let Some(id) = self.names.get(&reference.to_string())
        {
            return Some(*id);
        }
        self.find_prefix(digits)
    }

    fn find_prefix(&self, digits: &str) -> Option<ImageId> {
        if digits.len() < MIN_PREFIX_DIGITS
            || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return None;
        }
        let mut found = self.images.keys().filter(|id| id.0.hex().starts_with(digits));
        match (found.next(), found.next()) {
            (Some(id), None) => Some(*id),
            _ => None,
        }
    }

    /// Returns the records that change when an image is stored, in the order in which
    /// they must be written: first the one that gains names, then those that lose them.
    pub fn plan(&self, new: Image, blobs: Vec<Digest>) -> Vec<ImageRecord> {
        let given = self.last_given + 1;
        let old = self.images.get(&new.id).map(|(record, _)| record);
        let mut record = ImageRecord {
            id: new.id,
            manifest: new.manifest,
            size_bytes: new.size_bytes,
            layers: new.layers,
            config: new.config,
            created_at_ns: old.map_or(new.created_at_ns, |old| old.created_at_ns),
            tags: old.map(|old| old.tags.clone()).unwrap_or_default(),
            digests: old.map(|old| old.digests.clone()).unwrap_or_default(),
            blobs: if blobs.is_empty() {
                old.map(|old| old.blobs.clone()).unwrap_or_default()
            } else {
                blobs
            },
        };
        let mut losers = BTreeMap::new();
        for name in new.repo_tags.iter().chain(&new.repo_digests) {
            if let Some(loser) = self.names.get(name).filter(|id| **id != record.id) {
                losers.entry(*loser).or_insert_with(Vec::new).push(name.clone());
            }
        }
        record.tags.extend(new.repo_tags.into_iter().map(|tag| (tag, given)));
        record.digests.extend(new.repo_digests);
        let mut records = vec![record];
        for (id, names) in losers {
            if let Some((loser, _)) = self.images.get(&id) {
                let mut loser = loser.clone();
                for name in names {
                    loser.tags.remove(&name);
                    loser.digests.remove(&name);
                }
                records.push(loser);
            }
        }
        records
    }

    /// Takes over a record: one that [`Catalog::plan`] made, or one from disk, in any
    /// order. Of two that claim one name the one that was given it later keeps it.
    pub fn put(&mut self, mut record: ImageRecord) -> Arc<Image> {
        let id = record.id;
        self.remove(id);
        let tags = std::mem::take(&mut record.tags);
        for (tag, given) in tags {
            self.last_given = self.last_given.max(given);
            if self.take_name(&tag, given) {
                self.names.insert(tag.clone(), id);
                record.tags.insert(tag, given);
            }
        }
        for digest in &record.digests {
            self.names.insert(digest.clone(), id);
        }
        let image = Arc::new(self.image(&record));
        self.images.insert(id, (record, image.clone()));
        image
    }

    /// Takes a tag from the image that has it, unless that one was given it later.
    fn take_name(&mut self, tag: &str, given: u64) -> bool {
        let Some(holder) = self.names.get(tag).copied() else { return true };
        let Some((mut record, _)) = self.images.get(&holder).cloned() else { return true };
        if record.tags.get(tag).is_some_and(|held| *held > given) {
            return false;
        }
        record.tags.remove(tag);
        let image = Arc::new(self.image(&record));
        self.images.insert(holder, (record, image));
        true
    }

    /// Removes an image and all of its names.
    pub fn remove(&mut self, id: ImageId) -> bool {
        let Some(_) = self.images.remove(&id) else { return false };
        self.names.retain(|_, holder| *holder != id);
        true
    }

    fn image(&self, record: &ImageRecord) -> Image {
        let mut names = record.tags.keys().chain(&record.digests);
        let pinned = names.any(|n| self.pinned.fit(n)) || self.pinned.fit_id(record.id);
        Image {
            id: record.id,
            repo_tags: record.tags.keys().cloned().collect(),
            repo_digests: record.digests.iter().cloned().collect(),
            manifest: record.manifest,
            size_bytes: record.size_bytes,
            layers: record.layers.clone(),
            config: record.config.clone(),
            created_at_ns: record.created_at_ns,
            pinned,
        }
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;

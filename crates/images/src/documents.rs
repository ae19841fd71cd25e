//! What an image came with, as it came: its manifest and configuration, byte by byte, and
//! its signatures. They are read when somebody asks for them; nothing that runs
//! containers needs them.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use state::{Durability, Store, StoreError};
use types::ImageId;

use crate::signature::Signature;

/// The most signatures that are kept with an image.
const MAX_SIGNATURES: usize = 256;

/// What an image came with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Documents {
    /// Its manifest; empty for what `docker save` wrote, which has none.
    #[serde(default)]
    pub manifest: String,
    /// The manifest's type.
    #[serde(default)]
    pub manifest_type: String,
    /// Its configuration.
    #[serde(default)]
    pub config: String,
    /// Its signatures.
    #[serde(default)]
    pub signatures: Vec<Signature>,
    /// Whether an archive has brought it.
    #[serde(default)]
    pub loaded: bool,
}

/// The store of these.
#[derive(Debug)]
pub(crate) struct DocumentStore {
    store: Store,
    /// Held by the one who writes: an image may come under two names at a time.
    writing: Mutex<()>,
}

impl DocumentStore {
    pub fn new(store: Store) -> Self {
        Self { store, writing: Mutex::default() }
    }

    /// Keeps what an image came with, signatures beside those that are known.
    pub fn put(&self, id: ImageId, mut new: Documents) -> Result<(), StoreError> {
        let _alone = self.writing.lock();
        if let Some(old) = self.get(id) {
            let fresh = |s: &Signature| !new.signatures.contains(s);
            let known: Vec<_> = old.signatures.iter().filter(|s| fresh(s)).cloned().collect();
            new.signatures.extend(known);
            new.signatures.truncate(MAX_SIGNATURES);
            new.loaded |= old.loaded;
            if new.manifest.is_empty() {
                (new.manifest, new.manifest_type) =
                    (old.manifest.clone(), old.manifest_type.clone());
            }
            if new == old {
                return Ok(());
            }
        }
        self.store.put(&id.0.hex(), &new, Durability::PowerCut)
    }

    /// Returns what an image came with; `None` where it is not known, or damaged.
    pub fn get(&self, id: ImageId) -> Option<Documents> {
        match self.store.get(&id.0.hex()) {
            Ok(found) => found,
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(image = %id, error, "what the image came with is damaged");
                None
            }
        }
    }

    /// Forgets what an image came with.
    pub fn remove(&self, id: ImageId) {
        let _alone = self.writing.lock();
        if let Err(error) = self.store.remove(&id.0.hex()) {
            let error = crate::error::chain(&error);
            tracing::warn!(image = %id, error, "what an image came with was not removed");
        }
    }

    /// Forgets what images came with that are not there.
    pub fn sweep(&self, is_there: impl Fn(ImageId) -> bool) {
        for name in self.store.names().unwrap_or_default() {
            match format!("sha256:{name}").parse() {
                Ok(id) if !is_there(id) => self.remove(id),
                _ => {}
            }
        }
    }
}

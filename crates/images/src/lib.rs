//! The image service: from a name at a registry, or an archive, to layers in the
//! snapshot store and a record that names them.
//!
//! ```text
//! name ─► hosts ─► manifest (index ─► platform) ─► configuration ─► layers, in parallel:
//!     bytes ─► digest ─► decompress ─► diff ID ─► unpack ─► sync ─► seal
//! ─► record, synced ─► listed
//! ```
//!
//! What must never happen: an image is listed and not complete; bytes are used that
//! do not match the digest that was asked for; credentials reach a host that they
//! are not for; an image takes a name that nobody asked for.
//!
//! Called by the API; calls `snapshots` and `layers`.
#![forbid(unsafe_code)]

mod answer;
mod archive;
mod auth;
mod catalog;
mod client;
mod error;
mod fetch;
mod gate;
mod hosts;
mod layer;
mod layer_store;
mod load;
mod manifest;
mod options;
mod platform;
mod progress;
mod pull;
mod records;
pub mod reference;
mod registry;
mod spool;
pub mod tls;
mod token;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use snapshots::Snapshots;
use state::Store;
use tokio::sync::watch;
use tracing::{Instrument, info};
use types::{Image, ImageId};

pub use auth::Auth;
pub use error::{OpenError, PullError, PullErrorKind, RemoveError};
pub use options::{ImageLimits, ImagesOptions, NetworkOptions};
pub use platform::Platform;
pub use progress::PullProgress;
pub use spool::Spool;

use client::Connections;
use gate::Gate;
use layer_store::LayerStore;
use progress::Tracker;
use records::Records;
use reference::Reference;

/// What the images take of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// Where the layers lie.
    pub mountpoint: PathBuf,
    /// Disk space, in bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// An image that was loaded from an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// The image.
    pub image: Arc<Image>,
    /// The names that the archive gave it, normalised.
    pub names: Vec<String>,
}

/// The version of the records on disk.
const RECORD_VERSION: u32 = 1;

/// With how many times the layers of one pull all pulls together make do: a registry
/// that is slow holds up its own pulls, and not those of others.
const PARALLEL_PULLS: usize = 4;

/// A pull's result, for all who wait for it.
type Shared = Option<Result<Arc<Image>, PullError>>;

/// The image service.
#[derive(Debug)]
pub struct Images {
    options: ImagesOptions,
    limits: Arc<ImageLimits>,
    layers: LayerStore,
    gate: Gate,
    records: Records,
    connections: Arc<Connections>,
    running: Mutex<HashMap<(String, Option<Auth>), Running>>,
}

/// A pull in flight.
#[derive(Debug, Clone)]
struct Running {
    result: watch::Receiver<Shared>,
    progress: Arc<Tracker>,
}

impl Images {
    /// Opens the store. Blocks; belongs at the start.
    ///
    /// # Errors
    /// Fails where the store's directory or its records cannot be read.
    pub fn open(options: ImagesOptions, snapshots: Snapshots) -> Result<Arc<Self>, OpenError> {
        Spool::sweep(&options.root).map_err(|source| OpenError::Directory {
            action: "empty the spool of",
            path: options.root.clone(),
            source,
        })?;
        let records = Store::open(&options.root.join("records"), "image", RECORD_VERSION)
            .and_then(|store| {
                Records::open(store, &options.pinned, |layer| snapshots.has_layer(layer))
            })
            .map_err(OpenError::Records)?;
        let images = Self {
            limits: Arc::new(options.limits.clone()),
            layers: LayerStore::new(snapshots),
            gate: Gate::new(options.max_parallel_layers.saturating_mul(PARALLEL_PULLS)),
            records,
            connections: Arc::new(Connections::new(options.network.clone())),
            running: Mutex::default(),
            options,
        };
        // Layers of pulls that a crash ended.
        images.layers.collect(|| images.records.layers());
        Ok(Arc::new(images))
    }

    /// Pulls an image. Calls for one image with the same credentials share one pull,
    /// which runs on when a caller leaves.
    ///
    /// # Errors
    /// See [`PullError::kind`] for the classes.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &str,
        auth: Option<Auth>,
    ) -> Result<Arc<Image>, PullError> {
        let reference: Reference = reference.parse()?;
        let mut result = self.join(&reference, auth);
        let done = result.wait_for(Option::is_some).await;
        let shared = done.ok().and_then(|shared| shared.clone());
        shared.unwrap_or_else(|| Err(PullError::Aborted { reference: reference.to_string() }))
    }

    /// Finds the pull in flight for a reference, or starts one.
    fn join(
        self: &Arc<Self>,
        reference: &Reference,
        auth: Option<Auth>,
    ) -> watch::Receiver<Shared> {
        let key = (reference.to_string(), auth.clone());
        let mut running = self.running.lock();
        if let Some(same) = running.get(&key) {
            return same.result.clone();
        }
        let (sender, result) = watch::channel(None);
        let progress = Arc::new(Tracker::new(reference.to_string()));
        running.insert(key.clone(), Running { result: result.clone(), progress: progress.clone() });
        let (images, reference) = (self.clone(), reference.clone());
        let work = async move {
            // Taken out of the table whatever happens, also when the work panics.
            let _entry = Entry { images: images.clone(), key };
            let pulled = tokio::select! {
                pulled = images.fetch(&reference, auth, &progress) => pulled,
                never = progress.report() => match never {},
            };
            let PullProgress { elapsed, bytes_done, .. } = progress.snapshot();
            if let Ok(image) = &pulled {
                info!(image = %reference, id = %image.id, bytes = bytes_done, ms = elapsed.as_millis(), "pulled");
            }
            sender.send_replace(Some(pulled));
        };
        tokio::spawn(work.in_current_span());
        result
    }

    /// Returns the image of an id (whole or a unique prefix, with or without
    /// `sha256:`) or of a name. From memory.
    pub fn get(&self, image: &str) -> Option<Arc<Image>> {
        self.records.get(image)
    }

    /// Returns all images. From memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.records.list()
    }

    /// Removes the image of an id or name, with all of its names; none is fine. It is out
    /// of sight at once; its layers go where nothing else needs them.
    ///
    /// # Errors
    /// Fails where its record cannot be removed.
    pub async fn remove(self: &Arc<Self>, image: &str) -> Result<Option<ImageId>, RemoveError> {
        let (images, name) = (self.clone(), image.to_owned());
        let removed = tokio::task::spawn_blocking(move || {
            let removed = images
                .records
                .remove(&name)
                .map_err(|(image, source)| RemoveError::Record { image, source })?;
            if removed.is_some() {
                images.layers.collect(|| images.records.layers());
            }
            Ok(removed)
        });
        removed.await.map_err(|_| RemoveError::Aborted { image: image.to_owned() })?
    }

    /// Loads all images of an OCI layout, an archive of one, or an archive of
    /// `docker save`, compressed or not.
    ///
    /// # Errors
    /// See [`PullError::kind`] for the classes.
    pub async fn load(self: &Arc<Self>, path: &Path) -> Result<Vec<LoadedImage>, PullError> {
        self.load_from(path).await
    }

    /// Makes a place for an archive that is to be loaded.
    ///
    /// # Errors
    /// Fails where the directory cannot be made.
    pub fn spool(&self) -> std::io::Result<Spool> {
        Spool::new(&self.options.root)
    }

    /// Returns what the images take of the disk. From memory.
    pub fn fs_usage(&self) -> FsUsage {
        let usage = self.layers.snapshots().total_usage();
        FsUsage {
            mountpoint: self.layers.snapshots().root().to_owned(),
            bytes: usage.bytes,
            inodes: usage.inodes,
        }
    }

    /// Returns how far the pulls are that run now.
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.running.lock().values().map(|r| r.progress.snapshot()).collect()
    }
}

/// A pull's place in the table.
struct Entry {
    images: Arc<Images>,
    key: (String, Option<Auth>),
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.images.running.lock().remove(&self.key);
    }
}

/// The time, in nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

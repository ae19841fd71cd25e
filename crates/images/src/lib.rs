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
mod attachments;
mod auth;
mod catalog;
mod client;
mod content;
mod counters;
mod documents;
mod downloads;
mod error;
mod fetch;
mod fsck;
mod gate;
mod health;
mod hosts;
mod hosts_toml;
mod layer;
mod layer_store;
mod load;
mod manifest;
mod options;
mod pins;
mod pipe;
mod platform;
mod policy;
mod progress;
mod pull;
mod ranges;
mod recent;
mod records;
pub mod reference;
mod registries_conf;
mod registry;
mod save;
mod signature;
mod spool;
pub mod tls;
mod token;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, RwLock};
use snapshots::Snapshots;
use state::{Reserve, Store, StoreError};
use tokio::sync::{Notify, watch};
use tracing::{Instrument, info, warn};
use types::{DiffId, Digest, Image, ImageId};

pub use auth::Auth;
pub use counters::{ImageCounters, PullOutcomes};
pub use error::{OpenError, PullError, PullErrorKind, RemoveError};
pub use fsck::{Finding, FsckOptions, FsckReport};
pub use options::{ImageLimits, ImagesOptions, NetworkOptions};
pub use platform::Platform;
pub use progress::PullProgress;
pub use save::Save;
pub use spool::Spool;

use client::Connections;
use content::Content;
use counters::{Counters, Outcomes};
use documents::DocumentStore;
use gate::Gate;
use layer_store::LayerStore;
use policy::Policy;
use progress::Tracker;
use recent::Recent;
use records::Records;
use reference::Reference;
use registries_conf::Registries;

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

/// What a record takes of the disk, on file systems as they usually are.
const RECORD_BYTES: u64 = 4096;

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
    documents: DocumentStore,
    content: Content,
    recent: Recent,
    reserve: Reserve,
    connections: Arc<Connections>,
    counters: Arc<Counters>,
    outcomes: Outcomes,
    /// As they were when something was pulled last: lookups read no files.
    registries: RwLock<Arc<Registries>>,
    /// When layers were looked at last, by layer.
    looked_at: Mutex<HashMap<DiffId, Instant>>,
    running: Mutex<HashMap<Key, Running>>,
}

type Key = (String, Option<Auth>);

/// A pull in flight.
#[derive(Debug, Clone)]
struct Running {
    result: Arc<watch::Sender<Shared>>,
    /// Told of everyone who begins to wait.
    joined: Arc<Notify>,
    progress: Arc<Tracker>,
}

impl Images {
    /// Opens the store. Blocks; belongs at the start.
    ///
    /// # Errors
    /// Fails where the store's directory or its records cannot be read.
    pub fn open(options: ImagesOptions, snapshots: Snapshots) -> Result<Arc<Self>, OpenError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { action, path, source }
        };
        Spool::sweep(&options.root).map_err(failed("empty the spool of", &options.root))?;
        let store = |dir: &str, kind: &str| {
            Store::open(&options.root.join(dir), kind, RECORD_VERSION).map_err(OpenError::Records)
        };
        let records =
            Records::open(store("records", "image")?, &options.pinned, |l| snapshots.has_layer(l))
                .map_err(OpenError::Records)?;
        let documents = DocumentStore::new(store("documents", "document")?);
        let content =
            Content::open(&options).map_err(failed("open the content of", &options.root))?;
        let reserve = options.root.join("reserve");
        let reserve = Reserve::open(&reserve, options.reserve_bytes)
            .map_err(failed("set space aside in", &reserve))?;
        let counters = Arc::<Counters>::default();
        let registries = Registries::load(&options.registries_conf).unwrap_or_else(|error| {
            // The next pull says so too, to the one who asks for it.
            warn!(%error, "short names and mirrors are not known");
            Registries::default()
        });
        let images = Self {
            limits: Arc::new(options.limits.clone()),
            layers: LayerStore::new(snapshots),
            gate: Gate::new(options.max_parallel_layers.saturating_mul(PARALLEL_PULLS)),
            records,
            documents,
            content,
            recent: Recent::default(),
            reserve,
            connections: Arc::new(Connections::new(options.network.clone(), counters.clone())),
            counters,
            outcomes: Outcomes::default(),
            registries: RwLock::new(Arc::new(registries)),
            looked_at: Mutex::default(),
            running: Mutex::default(),
            options,
        };
        // Layers of pulls that a crash ended.
        images.collect();
        Ok(Arc::new(images))
    }

    /// Deletes what no image needs. Blocks.
    fn collect(&self) {
        let removed = self.layers.collect(|| self.records.layers());
        Counters::add(&self.counters.layers_collected, removed as u64);
        self.content.collect(&self.records.blobs());
        let is_there = |id: ImageId| self.records.get(&id.to_string()).is_some();
        // A pull that is being recorded has written its documents first.
        if self.running.lock().is_empty() {
            self.documents.sweep(is_there);
        }
        self.reserve.refill();
    }

    /// Pulls an image. Calls for one image with the same credentials share one pull,
    /// which runs on when a caller leaves, for a time.
    ///
    /// # Errors
    /// See [`PullError::kind`] for the classes.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &str,
        auth: Option<Auth>,
    ) -> Result<Arc<Image>, PullError> {
        let candidates = self.candidates_now(reference).await?;
        let mut last = None;
        for candidate in candidates {
            match self.pull_one(&candidate, auth.clone()).await {
                // The next registry may have it.
                Err(error)
                    if matches!(
                        error.kind(),
                        PullErrorKind::NotFound | PullErrorKind::Unauthorized
                    ) =>
                {
                    last = Some(error);
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| PullError::Aborted { reference: reference.to_owned() }))
    }

    async fn pull_one(
        self: &Arc<Self>,
        reference: &Reference,
        auth: Option<Auth>,
    ) -> Result<Arc<Image>, PullError> {
        let mut result = self.join(reference, auth);
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
            let result = same.result.subscribe();
            same.joined.notify_one();
            return result;
        }
        let (sender, result) = watch::channel(None);
        let pull = Running {
            result: Arc::new(sender),
            joined: Arc::default(),
            progress: Arc::new(Tracker::new(reference.to_string())),
        };
        running.insert(key.clone(), pull.clone());
        Counters::count(&self.counters.pulls_started);
        let (images, reference) = (self.clone(), reference.clone());
        let work = async move {
            // Taken out of the table whatever happens, also when the work panics.
            let entry = Entry { images: images.clone(), key };
            let limit = images.options.abandoned_timeout;
            let pulled = tokio::select! {
                pulled = images.fetch(&reference, auth, &pull.progress) => pulled,
                never = pull.progress.report() => match never {},
                () = pull.abandoned(limit) => {
                    Counters::count(&images.counters.pulls_abandoned);
                    let seconds = limit.as_secs();
                    Err(PullError::Abandoned { reference: reference.to_string(), seconds })
                }
            };
            images.report(&reference, &pull.progress, &pulled);
            // Whoever asks from here on finds the image, or tries anew.
            drop(entry);
            pull.result.send_replace(Some(pulled));
        };
        tokio::spawn(work.in_current_span());
        result
    }

    fn report(
        &self,
        reference: &Reference,
        progress: &Tracker,
        pulled: &Result<Arc<Image>, PullError>,
    ) {
        let PullProgress { elapsed, bytes_done, .. } = progress.snapshot();
        let ms = elapsed.as_millis();
        self.outcomes.count(elapsed, pulled);
        match pulled {
            Ok(image) => {
                Counters::count(&self.counters.pulls_succeeded);
                info!(image = %reference, id = %image.id, bytes = bytes_done, ms, "pulled");
            }
            // Whoever waits for it says why.
            Err(error) => {
                Counters::count(&self.counters.pulls_failed);
                tracing::debug!(image = %reference, %error, bytes = bytes_done, ms, "not pulled");
            }
        }
    }

    /// Reads `registries.conf`, for this pull and for lookups after it. Blocks.
    fn read_registries(&self) -> Result<Arc<Registries>, PullError> {
        let read = Arc::new(Registries::load(&self.options.registries_conf)?);
        *self.registries.write() = read.clone();
        Ok(read)
    }

    async fn candidates_now(self: &Arc<Self>, text: &str) -> Result<Vec<Reference>, PullError> {
        let reference: Reference = text.parse()?;
        if !reference::is_short(text) {
            return Ok(vec![reference]);
        }
        let images = self.clone();
        let registries = tokio::task::spawn_blocking(move || images.read_registries())
            .await
            .map_err(|_| PullError::Aborted { reference: text.to_owned() })??;
        registries.candidates(text)
    }

    /// Returns the image of an id (whole or a unique prefix, with or without
    /// `sha256:`) or of a name. From memory.
    pub fn get(&self, image: &str) -> Option<Arc<Image>> {
        self.meant(image).and_then(|name| self.records.get(&name))
    }

    /// What a text stands for among the images that are there. A short name may be one
    /// of several registries'.
    fn meant(&self, text: &str) -> Option<String> {
        let registries = self.registries.read().clone();
        let candidates = match reference::is_short(text) {
            true => registries.candidates(text).unwrap_or_default(),
            false => Vec::new(),
        };
        let mut names = candidates.iter().map(ToString::to_string);
        names
            .find(|name| self.records.get(name).is_some())
            .or_else(|| self.records.get(text).map(|_| text.to_owned()))
    }

    /// Returns all images. From memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.records.list()
    }

    /// Removes the image of an id or name, with all of its names; none is fine. It is out
    /// of sight at once; its layers go where nothing else needs them. A full disk is no
    /// hindrance.
    ///
    /// # Errors
    /// Fails where its record cannot be removed.
    pub async fn remove(self: &Arc<Self>, image: &str) -> Result<Option<ImageId>, RemoveError> {
        let (images, text) = (self.clone(), image.to_owned());
        let removed = tokio::task::spawn_blocking(move || {
            let Some(name) = images.meant(&text) else { return Ok(None) };
            let full = |(_, error): &(ImageId, StoreError)| error::is_full(error);
            let removed = images
                .reserve
                .with(full, || images.records.remove(&name))
                .map_err(|(image, source)| RemoveError::Record { image, source })?;
            if let Some(id) = removed {
                images.documents.remove(id);
                images.collect();
            }
            Ok(removed)
        });
        removed.await.map_err(|_| RemoveError::Aborted { image: image.to_owned() })?
    }

    /// Does a step, and once more with the disk space given up that is kept for the day when
    /// there is none. For what must be possible on a full disk and frees space, or leads to
    /// it: not for making anything. Blocks.
    ///
    /// # Errors
    /// The step's own.
    pub fn with_reserve<T, E: std::error::Error + 'static>(
        &self,
        step: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        self.reserve.with(|error: &E| error::is_full(error), step)
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

    /// Judges an image by the policy before a container is made of it, under the name by
    /// which it is asked for: the policy may have changed since it was pulled. Reads small
    /// files.
    ///
    /// # Errors
    /// Says what the policy wants.
    pub fn check_use(&self, image: &Image, name: &str) -> Result<(), PullError> {
        let policy = Policy::load(&self.options.policy)?;
        let documents = self.documents.get(image.id).unwrap_or_default();
        let mut names: Vec<Reference> = Vec::new();
        let asked = name.parse().ok().filter(|asked: &Reference| {
            self.records.get(name).is_some_and(|found| found.id == image.id)
                && !image.id.to_string().ends_with(name)
                && image
                    .repo_tags
                    .iter()
                    .chain(&image.repo_digests)
                    .any(|n| *n == asked.to_string())
        });
        match asked {
            Some(asked) => names.push(asked),
            // Asked for by its id: one of its names must do.
            None => {
                let all = image.repo_tags.iter().chain(&image.repo_digests);
                names.extend(all.filter_map(|name| name.parse::<Reference>().ok()));
            }
        }
        let digests = digests_of(image);
        let mut refused = None;
        for name in &names {
            match policy.check(name, &digests, &documents.signatures) {
                Ok(()) => return Ok(()),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            // What an archive brought may be used if archives may be.
            Some(error) if documents.loaded => policy.check_loaded(name).map_err(|_| error),
            Some(error) => Err(error),
            None => policy.check_loaded(name),
        }
    }

    /// Returns what the images take of the disk, what is being fetched included. From
    /// memory.
    pub fn fs_usage(&self) -> FsUsage {
        let usage = self.layers.snapshots().total_usage();
        let records = 2 * self.records.list().len() as u64;
        FsUsage {
            mountpoint: self.layers.snapshots().root().to_owned(),
            bytes: usage
                .bytes
                .saturating_add(self.content.used_bytes())
                .saturating_add(records * RECORD_BYTES),
            inodes: usage.inodes.saturating_add(records),
        }
    }

    /// Returns an image's layers with what they take of the disk, in bytes.
    pub fn layer_usage(&self, image: &Image) -> Vec<(DiffId, u64)> {
        let snapshots = self.layers.snapshots();
        let bytes = |layer| snapshots.layer_usage(layer).map_or(0, |usage| usage.bytes);
        image.layers.iter().map(|layer| (*layer, bytes(layer))).collect()
    }

    /// Returns how far the pulls are that run now.
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.running.lock().values().map(|r| r.progress.snapshot()).collect()
    }

    /// Returns how far the pulls of one name are that run now.
    pub fn pulls_of(&self, name: &str) -> Vec<PullProgress> {
        let candidates = self.registries.read().candidates(name).unwrap_or_default();
        let names: Vec<_> = candidates.iter().map(ToString::to_string).collect();
        let running = self.running.lock();
        let of_name = running.iter().filter(|((reference, _), _)| names.contains(reference));
        of_name.map(|(_, pull)| pull.progress.snapshot()).collect()
    }

    /// Returns how pulls have ended since the start.
    pub fn outcomes(&self) -> PullOutcomes {
        self.outcomes.read()
    }

    /// Returns how many layers there are.
    pub fn layer_count(&self) -> usize {
        self.layers.snapshots().layers().len()
    }

    /// Returns what was done since the start.
    pub fn counters(&self) -> ImageCounters {
        self.counters.snapshot()
    }
}

/// The digests that signatures of an image may be for.
fn digests_of(image: &Image) -> Vec<Digest> {
    let of_name = |name: &String| name.rsplit('@').next().and_then(|digest| digest.parse().ok());
    let mut digests: Vec<Digest> = image.repo_digests.iter().filter_map(of_name).collect();
    digests.push(image.manifest);
    digests
}

impl Running {
    /// Ends when nobody has waited for the pull for a time.
    async fn abandoned(&self, limit: Duration) {
        loop {
            self.result.closed().await;
            tokio::select! {
                () = tokio::time::sleep(limit) => {
                    if self.result.is_closed() {
                        return;
                    }
                }
                () = self.joined.notified() => {}
            }
        }
    }
}

/// A pull's place in the table.
struct Entry {
    images: Arc<Images>,
    key: Key,
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

#[cfg(test)]
mod fuzz_tests;

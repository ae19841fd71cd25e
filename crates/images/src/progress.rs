//! How far pulls are, in memory only.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{counters::Counters, registry::Registry};

/// How often a pull that runs is in the log.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// How far one pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The image, normalised.
    pub reference: String,
    /// Since when it runs.
    pub elapsed: Duration,
    /// How many layers the image has; 0 until its manifest is known.
    pub layers_total: usize,
    /// How many of them are unpacked, or were there already.
    pub layers_done: usize,
    /// How many bytes its layers have, as they are fetched.
    pub bytes_total: u64,
    /// How many of them have come, or need not.
    pub bytes_done: u64,
}

/// What one download adds to a pull's progress. Dropped, it takes that back: it came in
/// vain.
#[derive(Debug)]
pub(crate) struct Share {
    tracker: Arc<Tracker>,
    bytes: AtomicU64,
}

impl Share {
    pub fn new(tracker: Arc<Tracker>) -> Arc<Self> {
        Arc::new(Self { tracker, bytes: AtomicU64::new(0) })
    }

    /// Counts bytes.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.tracker.add_bytes(bytes);
    }

    /// Counts bytes that came from a registry.
    pub fn fetched(&self, bytes: u64, registry: &Registry) {
        Counters::add(&registry.connections().counters.layer_bytes_fetched, bytes);
        self.add(bytes);
    }

    /// They came to good.
    pub fn keep(&self) {
        self.bytes.store(0, Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.tracker.take_back(self.bytes.load(Relaxed));
    }
}

/// The counters of one pull.
#[derive(Debug)]
pub(crate) struct Tracker {
    reference: String,
    since: Instant,
    layers_total: AtomicUsize,
    layers_done: AtomicUsize,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
}

impl Tracker {
    pub fn new(reference: String) -> Self {
        Self {
            reference,
            since: Instant::now(),
            layers_total: AtomicUsize::new(0),
            layers_done: AtomicUsize::new(0),
            bytes_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
        }
    }

    /// Says what is to come.
    pub fn expect(&self, layers: usize, bytes: u64) {
        self.layers_total.store(layers, Relaxed);
        self.bytes_total.store(bytes, Relaxed);
    }

    /// Counts bytes that came, or need not.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Relaxed);
    }

    /// Takes bytes back that came in vain.
    pub fn take_back(&self, bytes: u64) {
        self.bytes_done.fetch_sub(bytes, Relaxed);
    }

    /// Counts a layer that is there.
    pub fn add_layer(&self) {
        self.layers_done.fetch_add(1, Relaxed);
    }

    /// Says in the log, every so often, how far the pull is; never ends.
    pub async fn report(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            let now = self.snapshot();
            tracing::info!(
                image = %now.reference,
                layers = now.layers_done,
                layers_total = now.layers_total,
                bytes = now.bytes_done,
                bytes_total = now.bytes_total,
                s = now.elapsed.as_secs(),
                "pulling"
            );
        }
    }

    pub fn snapshot(&self) -> PullProgress {
        PullProgress {
            reference: self.reference.clone(),
            elapsed: self.since.elapsed(),
            layers_total: self.layers_total.load(Relaxed),
            layers_done: self.layers_done.load(Relaxed),
            bytes_total: self.bytes_total.load(Relaxed),
            bytes_done: self.bytes_done.load(Relaxed),
        }
    }
}

//! The snapshot store as the image service uses it: collecting layers never meets an
//! image that is just being recorded, nor a layer that is just being committed.
//!
//! A collection first asks which layers the images need, and then removes the others.
//! Between the two an image must not give up its pin in exchange for its record, and a
//! layer that was out of use must not come back: both wait until it is over.

use std::{collections::HashSet, sync::Arc};

use parking_lot::RwLock;
use snapshots::{LayerPin, LayerWriter, SnapshotError, Snapshots};
use types::DiffId;

/// The layers. Cheap to clone; all but [`LayerStore::has`] and [`LayerStore::pin`]
/// block.
#[derive(Debug, Clone)]
pub(crate) struct LayerStore {
    snapshots: Snapshots,
    /// Written by a collection, read by all that it must not meet.
    collecting: Arc<RwLock<()>>,
}

impl LayerStore {
    pub fn new(snapshots: Snapshots) -> Self {
        Self { snapshots, collecting: Arc::default() }
    }

    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Tells whether a layer is there, whole.
    pub fn has(&self, layer: &DiffId) -> bool {
        self.snapshots.has_layer(layer)
    }

    /// Holds layers, present or not yet, until [`LayerStore::release`].
    pub fn pin(&self, layers: &[DiffId]) -> LayerPin {
        self.snapshots.pin(layers)
    }

    /// Gives layers up that a record now holds.
    pub fn release(&self, pin: LayerPin) {
        let _not_while = self.collecting.read();
        drop(pin);
    }

    pub fn begin(&self, layer: DiffId) -> Result<LayerWriter, SnapshotError> {
        self.snapshots.begin_layer(layer)
    }

    pub fn commit(&self, writer: LayerWriter) -> Result<(), SnapshotError> {
        let _not_while = self.collecting.read();
        writer.commit()
    }

    /// Removes the layers that nothing needs; `needed` tells what the images do. What
    /// fails is logged: the next collection tries again.
    pub fn collect(&self, needed: impl FnOnce() -> HashSet<DiffId>) -> usize {
        let _alone = self.collecting.write();
        match self.snapshots.collect(&needed()) {
            Ok(report) if report.removed.is_empty() && report.failed == 0 => 0,
            Ok(report) => {
                tracing::info!(
                    removed = report.removed.len(),
                    freed_bytes = report.freed.bytes,
                    failed = report.failed,
                    "removed layers that nothing needs"
                );
                report.removed.len()
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(error, "layers that nothing needs were not removed");
                0
            }
        }
    }
}

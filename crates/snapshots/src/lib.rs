//! The snapshot store: unpacked layers, and the writable directories of containers
//! on top of them, in overlayfs' form.
//!
//! ```text
//! <root>/layers/<hex>/        a layer, by diff ID; it counts only with its seal
//! <root>/seals/<hex>          written, synced, after the layer's files are synced
//! <root>/splits/<hex>         with the layer it makes the layer's tar stream again
//! <root>/active/<id>/fs work  a container's own files
//! <root>/actives/<id>         which layers they lie on
//! <root>/held/<id>            layers that a container uses beside those
//! <root>/old/                 damaged layers below containers that still run
//! <root>/new/ trash/          being written, being deleted: emptied at open
//! <root>/empty/               the lower directory of an image without layers
//! ```
//!
//! What must never happen: a layer that counts and is not whole, also after a power
//! cut; a layer removed below a container, or while a pull needs it.
//!
//! Called by `images` and `pods`.
#![forbid(unsafe_code)]

mod active;
mod error;
mod layer;
mod remembered;
mod sealing;
mod store;
mod verify;
mod view;

use std::path::PathBuf;

use types::DiffId;

pub use error::SnapshotError;
pub use layer::{LayerPin, LayerWriter};
pub use store::Snapshots;
pub use verify::LayerState;

/// What a layer or a container's own files take of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Disk space, in bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Usage {
    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// What the store's file system has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Its size, in bytes.
    pub total_bytes: u64,
    /// Free for us, in bytes.
    pub available_bytes: u64,
    /// Its inodes.
    pub total_inodes: u64,
    /// Free inodes.
    pub available_inodes: u64,
}

/// What [`Snapshots::collect`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectReport {
    /// The layers that are gone.
    pub removed: Vec<DiffId>,
    /// What they took.
    pub freed: Usage,
    /// Layers (or what was left of them) that are out of use, but could not be
    /// deleted yet; the next call tries again.
    pub failed: usize,
}

/// A container's writable snapshot: what an overlay mount needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// The lower directories, topmost first. Never empty.
    pub lower: Vec<PathBuf>,
    /// The upper directory.
    pub upper: PathBuf,
    /// The work directory.
    pub work: PathBuf,
}

//! The snapshot store: unpacked layers, and the writable directories of containers
//! on top of them, in overlayfs' form.
#![forbid(unsafe_code)]

mod error;

use std::{
    collections::HashSet,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use types::{ContainerId, DiffId};

pub use error::SnapshotError;

/// What a layer or a container's own files take of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Disk space, in bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
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

/// The store. Cheap to clone; every call blocks, so it belongs on a blocking thread.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
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

/// A layer being written. Dropping it without a commit removes what was written.
#[derive(Debug)]
pub struct LayerWriter {
    dir: OwnedFd,
}

/// Holds layers in the store: as long as it lives, [`Snapshots::collect`] leaves them.
#[derive(Debug)]
pub struct LayerPin {}

impl Snapshots {
    /// Opens the store below `root`, makes it where it is missing (mode 0700), and
    /// removes what an earlier process left half done.
    ///
    /// # Errors
    /// Fails where the directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        Ok(Self { root: root.into() })
    }

    /// Holds `layers`, present or not yet, against [`Snapshots::collect`].
    #[must_use]
    pub fn pin(&self, layers: &[DiffId]) -> LayerPin {
        let _ = layers;
        LayerPin {}
    }

    /// Starts to write a layer.
    ///
    /// # Errors
    /// Fails where the directory cannot be made.
    pub fn begin_layer(&self, id: DiffId) -> Result<LayerWriter, SnapshotError> {
        let _ = id;
        todo!()
    }

    /// Tells whether the layer is there, whole.
    pub fn has_layer(&self, id: &DiffId) -> bool {
        let _ = id;
        todo!()
    }

    /// Returns what a layer takes of the disk, as recorded with it.
    pub fn layer_usage(&self, id: &DiffId) -> Option<Usage> {
        let _ = id;
        todo!()
    }

    /// Returns all layers.
    pub fn layers(&self) -> Vec<DiffId> {
        todo!()
    }

    /// Returns what all layers together take of the disk, as recorded with them.
    pub fn total_usage(&self) -> Usage {
        todo!()
    }

    /// Returns the figures of the store's file system.
    ///
    /// # Errors
    /// Fails where the kernel does not tell.
    pub fn filesystem(&self) -> Result<Filesystem, SnapshotError> {
        todo!()
    }

    /// Removes the layers that are not in `keep`, not pinned, and below no container.
    ///
    /// # Errors
    /// Fails where the store cannot be read.
    pub fn collect(&self, keep: &HashSet<DiffId>) -> Result<CollectReport, SnapshotError> {
        let _ = keep;
        todo!()
    }

    /// Makes a container's writable snapshot on `layers`, lowest first. Where it is
    /// there already, on the same layers, it is returned.
    ///
    /// # Errors
    /// Fails where a layer is missing, or where the container has one on others.
    pub fn prepare(&self, id: &ContainerId, layers: &[DiffId]) -> Result<Active, SnapshotError> {
        let _ = (id, layers);
        todo!()
    }

    /// Returns a container's writable snapshot.
    pub fn get(&self, id: &ContainerId) -> Option<Active> {
        let _ = id;
        todo!()
    }

    /// Returns all containers that have a writable snapshot, the damaged ones too.
    pub fn actives(&self) -> Vec<ContainerId> {
        todo!()
    }

    /// Removes a container's writable snapshot; none is fine.
    ///
    /// # Errors
    /// Fails where files cannot be removed.
    pub fn remove(&self, id: &ContainerId) -> Result<(), SnapshotError> {
        let _ = id;
        todo!()
    }

    /// Adds up what a container has written.
    ///
    /// # Errors
    /// Fails where it has none, or its directory cannot be read.
    pub fn usage(&self, id: &ContainerId) -> Result<Usage, SnapshotError> {
        let _ = id;
        todo!()
    }

    /// Mounts `layers`, lowest first, read-only and detached: no path leads to it,
    /// and it ends with the handle.
    ///
    /// # Errors
    /// Fails where a layer is missing, or the kernel refuses the mount.
    pub fn open_view(&self, layers: &[DiffId]) -> Result<OwnedFd, SnapshotError> {
        let _ = layers;
        todo!()
    }

    /// Reads the regular file `path` of the image that `layers` make, following links
    /// inside of it. `None` where there is no such file.
    ///
    /// # Errors
    /// Fails where it is no regular file, or longer than `max_len`.
    pub fn view_file(
        &self,
        layers: &[DiffId],
        path: &Path,
        max_len: usize,
    ) -> Result<Option<Vec<u8>>, SnapshotError> {
        let _ = (layers, path, max_len);
        todo!()
    }
}

impl LayerWriter {
    /// Returns the directory to unpack into.
    pub fn dir(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.dir.as_fd()
    }

    /// Syncs the layer, seals it and makes it visible. If another writer was first,
    /// that one's layer stays and this one is removed.
    ///
    /// # Errors
    /// Fails where a step fails; nothing of the layer is left then.
    pub fn commit(self, usage: Usage) -> Result<(), SnapshotError> {
        let _ = usage;
        todo!()
    }
}

//! Layers: written aside, synced, sealed, and collected when nobody needs them.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    sync::Arc,
    time::Instant,
};

use layers::{Meter, TreeSum};
use rustix::{fs::Mode, io::Errno};
use types::DiffId;

use crate::{
    CollectReport, SnapshotError, Snapshots, Usage,
    sealing::Ready,
    store::{Inner, Seal, open_dir},
};

/// A layer being written. Dropping it without a commit removes what was written.
#[derive(Debug)]
pub struct LayerWriter {
    inner: Arc<Inner>,
    pub(crate) id: DiffId,
    pub(crate) name: String,
    pub(crate) dir: OwnedFd,
    pub(crate) begun: Instant,
    split: Option<File>,
    /// Whether it is in its place.
    pub(crate) done: bool,
    meter: Arc<Meter>,
    _pin: LayerPin,
}

/// Holds layers in the store: as long as it lives, [`Snapshots::collect`] leaves them.
#[derive(Debug)]
pub struct LayerPin {
    inner: Arc<Inner>,
    layers: Vec<DiffId>,
}

impl Drop for LayerPin {
    fn drop(&mut self) {
        let mut known = self.inner.known();
        for layer in &self.layers {
            if let Some(count) = known.pins.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    known.pins.remove(layer);
                }
            }
        }
    }
}

impl Snapshots {
    /// Holds `layers`, present or not yet, against [`Snapshots::collect`].
    #[must_use]
    pub fn pin(&self, layers: &[DiffId]) -> LayerPin {
        let mut known = self.inner.known();
        for layer in layers {
            *known.pins.entry(*layer).or_default() += 1;
        }
        LayerPin { inner: self.inner.clone(), layers: layers.to_vec() }
    }

    /// Starts to write a layer.
    ///
    /// # Errors
    /// Fails where the directory cannot be made.
    pub fn begin_layer(&self, id: DiffId) -> Result<LayerWriter, SnapshotError> {
        let name = self.inner.fresh_name();
        let path = self.inner.root.join("new").join(&name);
        let failed = |action| {
            let path = path.clone();
            move |source| SnapshotError::Store { action, path, source }
        };
        // What the image says of its root directory replaces this mode.
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(failed("create"))?;
        let dir = open_dir(&path).map_err(failed("open"))?;
        let writer = LayerWriter {
            inner: self.inner.clone(),
            id,
            name,
            dir,
            begun: Instant::now(),
            split: None,
            done: false,
            meter: self.inner.new_meter(),
            _pin: self.pin(&[id]),
        };
        // The process's umask may be strict.
        rustix::fs::fchmod(&writer.dir, Mode::from_raw_mode(0o755))
            .map_err(|errno| failed("set the mode of")(errno.into()))?;
        Ok(writer)
    }

    /// Tells whether the layer is there, whole.
    pub fn has_layer(&self, id: &DiffId) -> bool {
        self.inner.known().layers.contains_key(id)
    }

    /// Returns what a layer takes of the disk, as recorded with it.
    pub fn layer_usage(&self, id: &DiffId) -> Option<Usage> {
        self.inner.known().layers.get(id).map(|seal| seal.usage)
    }

    /// Returns all layers.
    pub fn layers(&self) -> Vec<DiffId> {
        self.inner.known().layers.keys().copied().collect()
    }

    /// Removes the layers that are not in `keep`, not pinned, and below no container.
    ///
    /// # Errors
    /// Fails where the store cannot be read.
    pub fn collect(&self, keep: &HashSet<DiffId>) -> Result<CollectReport, SnapshotError> {
        let mut report = CollectReport::default();
        for (id, seal, hidden) in self.out_of_use(keep) {
            let removed = match hidden {
                Ok(Some(trash)) => self.inner.delete("trash", &trash),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            match removed {
                Ok(()) => {
                    report.removed.push(id);
                    report.freed = report.freed.plus(seal.usage);
                }
                Err(error) => {
                    tracing::warn!(layer = %id, %error, "a layer out of use was not deleted");
                    report.failed += 1;
                }
            }
        }
        self.inner.sweep_old()?;
        Ok(report)
    }

    /// Takes what nobody needs out of sight, in memory and on disk, under one lock with
    /// the check: whoever asks for one of these layers afterwards writes it anew, and
    /// nothing of that is touched here. What remains is only files in the trash.
    fn out_of_use(&self, keep: &HashSet<DiffId>) -> Vec<(DiffId, Seal, Hidden)> {
        let mut known = self.inner.known();
        let known = &mut *known;
        known.files.forget();
        let below = known.actives.values().flatten().flatten();
        let used: HashSet<DiffId> = below.chain(known.held.values().flatten()).copied().collect();
        let gone = known.layers.extract_if(.., |id, _| {
            !keep.contains(id) && !used.contains(id) && !known.pins.contains_key(id)
        });
        gone.map(|(id, seal)| {
            let name = id.0.hex();
            let hidden = self
                .inner
                .seals
                .remove(&name)
                .map_err(SnapshotError::Record)
                .and_then(|()| self.inner.discard("splits", &name))
                .and_then(|()| self.inner.hide("layers", &name));
            (id, seal, hidden)
        })
        .collect()
    }
}

/// What is left to be deleted of the trash, if it could be hidden there.
type Hidden = Result<Option<String>, SnapshotError>;

impl LayerWriter {
    /// Returns the directory to unpack into.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Returns what is told how far the layer is: what is written counts as used.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Opens a file for what the layer's stream has beside the tree; it is kept with the
    /// layer, unless [`LayerWriter::without_split`] is called.
    ///
    /// # Errors
    /// Fails where the file cannot be made.
    pub fn split(&mut self) -> Result<File, SnapshotError> {
        let layer = self.id;
        let failed = |source| SnapshotError::Layer { action: "make a file for", layer, source };
        let path = self.inner.root.join("new").join(self.split_name());
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(failed)?;
        self.split = Some(file.try_clone().map_err(failed)?);
        Ok(file)
    }

    /// Keeps no split.
    pub fn without_split(&mut self) {
        self.split = None;
    }

    pub(crate) fn split_name(&self) -> String {
        format!("{}.split", self.name)
    }

    /// Syncs the layer, seals it and makes it visible, together with others that are ready
    /// then. If another writer was first, that one's layer stays and this one is removed.
    ///
    /// # Errors
    /// Fails where a step fails; nothing of the layer is left then.
    pub fn commit(self) -> Result<(), SnapshotError> {
        let layer = self.id;
        let failed =
            |action| move |source: io::Error| SnapshotError::Layer { action, layer, source };
        // What the next look at the tree must find.
        let TreeSum { usage, sum } = layers::tree_sum(self.dir()).map_err(failed("look at"))?;
        let split_bytes = self.split_bytes().map_err(failed("look at"))?;
        let opaque = is_opaque(&self.dir).map_err(|e| failed("look at")(e.into()))?;
        let usage = Usage {
            bytes: usage.bytes.saturating_add(split_bytes.unwrap_or(0)),
            inodes: usage.inodes + u64::from(split_bytes.is_some()),
        };
        let seal =
            Seal { usage, opaque, sum: Some(format!("{sum:032x}")), split: split_bytes.is_some() };
        let inner = self.inner.clone();
        inner.sealing.seal(&inner, Ready { writer: self, seal })
    }

    fn split_bytes(&self) -> io::Result<Option<u64>> {
        use std::os::unix::fs::MetadataExt as _;
        self.split.as_ref().map(|file| Ok(file.metadata()?.blocks() * 512)).transpose()
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        // What is not kept of it lies there still.
        let _gone = fs::remove_file(self.inner.root.join("new").join(self.split_name()));
        if !self.done
            && let Err(error) = self.inner.delete("new", &self.name)
        {
            tracing::warn!(layer = %self.id, %error, "what was written of a layer was not deleted");
        }
    }
}

/// Tells whether a layer's root directory hides all below it.
fn is_opaque(root: &OwnedFd) -> rustix::io::Result<bool> {
    let mut value = [0_u8; 1];
    match rustix::fs::fgetxattr(root, c"trusted.overlay.opaque", &mut value) {
        Ok(_) => Ok(&value == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

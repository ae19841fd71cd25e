//! Layers: written aside, synced, sealed, and collected when nobody needs them.

use std::{
    collections::HashSet,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    sync::Arc,
};

use rustix::{fs::Mode, io::Errno};
use state::Durability;
use types::DiffId;

use crate::{
    CollectReport, SnapshotError, Snapshots, Usage,
    store::{Inner, Seal, open_dir},
};

/// A layer being written. Dropping it without a commit removes what was written.
#[derive(Debug)]
pub struct LayerWriter {
    inner: Arc<Inner>,
    id: DiffId,
    name: String,
    dir: OwnedFd,
    done: bool,
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
            done: false,
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
        Ok(report)
    }

    /// Takes what nobody needs out of sight, in memory and on disk, under one lock with
    /// the check: whoever asks for one of these layers afterwards writes it anew, and
    /// nothing of that is touched here. What remains is only files in the trash.
    fn out_of_use(&self, keep: &HashSet<DiffId>) -> Vec<(DiffId, Seal, Hidden)> {
        let mut known = self.inner.known();
        let known = &mut *known;
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

    /// Syncs the layer, seals it and makes it visible. If another writer was first,
    /// that one's layer stays and this one is removed.
    ///
    /// # Errors
    /// Fails where a step fails; nothing of the layer is left then.
    pub fn commit(mut self, usage: Usage) -> Result<(), SnapshotError> {
        let layer = self.id;
        let failed =
            |action| move |source: io::Error| SnapshotError::Layer { action, layer, source };
        // All files of the layer are on disk before anything names it.
        rustix::fs::syncfs(&self.dir).map_err(|e| failed("sync")(e.into()))?;
        let opaque = is_opaque(&self.dir).map_err(|e| failed("look at")(e.into()))?;
        let seal = Seal { usage, opaque };
        let inner = self.inner.clone();
        let mut known = inner.known();
        if known.layers.contains_key(&self.id) {
            return Ok(());
        }
        let place = inner.layer_dir(&self.id);
        // An unsealed one is what a crash or a failed collection left.
        inner.discard("layers", &self.id.0.hex())?;
        fs::rename(inner.root.join("new").join(&self.name), &place).map_err(failed("place"))?;
        self.done = true;
        let sealed = inner
            .open_dir("layers")
            .and_then(|parent| {
                rustix::fs::fsync(parent).map_err(|e| failed("sync the place of")(e.into()))
            })
            .and_then(|()| {
                inner
                    .seals
                    .put(&self.id.0.hex(), &seal, Durability::PowerCut)
                    .map_err(SnapshotError::Record)
            });
        if let Err(error) = sealed {
            inner.discard("layers", &self.id.0.hex())?;
            return Err(error);
        }
        known.layers.insert(self.id, seal);
        Ok(())
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
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

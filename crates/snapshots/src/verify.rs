//! Looking whether layers are what they were when they were sealed.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use types::DiffId;

use crate::{SnapshotError, Snapshots, store::open_dir};

/// What a look at a layer has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerState {
    /// As it was sealed.
    Whole,
    /// Something of it has changed or is gone.
    Damaged(String),
    /// It is not in the store.
    Missing,
}

impl Snapshots {
    /// Looks at every file of a layer, but not into them: whether it has the names,
    /// kinds, sizes, modes and times with which it was sealed.
    ///
    /// # Errors
    /// Fails where the disk does, in a way that says nothing of the layer.
    pub fn look_at_layer(&self, id: &DiffId) -> Result<LayerState, SnapshotError> {
        let Some(seal) = self.inner.known().layers.get(id).cloned() else {
            return Ok(LayerState::Missing);
        };
        let looked = self.open_layer(id).and_then(|dir| {
            layers::tree_sum(dir.as_fd()).map_err(|source| SnapshotError::Layer {
                action: "look at",
                layer: *id,
                source,
            })
        });
        let found = match looked {
            Ok(found) => found,
            Err(SnapshotError::Layer { source, .. }) => {
                return Ok(LayerState::Damaged(source.to_string()));
            }
            Err(other) => return Err(other),
        };
        let sum = format!("{:032x}", found.sum);
        let is_split_there = !seal.split || self.inner.split_path(id).is_file();
        Ok(match seal.sum {
            Some(sealed) if sealed != sum => {
                LayerState::Damaged("its files are not those with which it was sealed".to_owned())
            }
            _ if !is_split_there => LayerState::Damaged("its split is gone".to_owned()),
            _ => LayerState::Whole,
        })
    }

    /// Takes a damaged layer out of what is there: whoever needs it fetches it anew.
    /// Containers that run on it keep what is left of it.
    ///
    /// # Errors
    /// Fails where its seal cannot be removed.
    pub fn forget_layer(&self, id: &DiffId) -> Result<(), SnapshotError> {
        let mut known = self.inner.known();
        self.inner.seals.remove(&id.0.hex()).map_err(SnapshotError::Record)?;
        known.layers.remove(id);
        known.files.forget();
        self.inner.put_aside(&known, id)
    }

    /// Opens a layer's directory.
    ///
    /// # Errors
    /// Fails where it is not there.
    pub fn open_layer(&self, id: &DiffId) -> Result<OwnedFd, SnapshotError> {
        open_dir(&self.inner.layer_dir(id)).map_err(|source| SnapshotError::Layer {
            action: "open",
            layer: *id,
            source,
        })
    }

    /// Opens what makes a layer's stream again; `None` where that was not kept.
    ///
    /// # Errors
    /// Fails where it should be there and cannot be opened.
    pub fn open_split(&self, id: &DiffId) -> Result<Option<File>, SnapshotError> {
        match self.inner.known().layers.get(id) {
            None => return Err(SnapshotError::MissingLayer(*id)),
            Some(seal) if !seal.split => return Ok(None),
            Some(_) => {}
        }
        let failed = |source: io::Error| SnapshotError::Layer {
            action: "open the split of",
            layer: *id,
            source,
        };
        File::open(self.inner.split_path(id)).map(Some).map_err(failed)
    }
}

//! Containers' own files, on top of layers.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use state::Durability;
use types::{ContainerId, DiffId, UserNamespace};

use crate::{
    Active, SnapshotError, Snapshots, Usage,
    store::{Known, open_dir},
};

/// The most lower directories of one mount (the kernel's `OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

impl Snapshots {
    /// Makes a container's writable snapshot on `layers`, lowest first. Where it is
    /// there already, on the same layers, it is returned.
    ///
    /// # Errors
    /// Fails where a layer is missing, or where the container has one on others.
    pub fn prepare(&self, id: &ContainerId, layers: &[DiffId]) -> Result<Active, SnapshotError> {
        self.prepare_for(id, layers, None)
    }

    /// The same for a container in a user namespace, whose root owns what it writes.
    ///
    /// # Errors
    /// As [`Snapshots::prepare`].
    pub fn prepare_for(
        &self,
        id: &ContainerId,
        layers: &[DiffId],
        user: Option<&UserNamespace>,
    ) -> Result<Active, SnapshotError> {
        {
            // In the index before anything is written: from here on the layers are in use.
            let mut known = self.inner.known();
            match known.actives.get(id) {
                Some(Some(other)) if other == layers => {
                    return Ok(self.describe(&known, id, layers));
                }
                Some(_) => return Err(SnapshotError::Exists(id.clone())),
                None => {}
            }
            check(layers, |layer| known.layers.contains_key(layer))?;
            known.actives.insert(id.clone(), Some(layers.to_vec()));
        }
        let made = self
            .inner
            .actives
            .put(id.as_str(), &layers, Durability::Process)
            .map_err(SnapshotError::Record)
            .and_then(|()| self.make_active(id, layers, user));
        if let Err(error) = made {
            if let Err(undo) = self.remove(id) {
                tracing::warn!(container = %id, error = %undo, "what was made of its snapshot remains");
            }
            return Err(error);
        }
        Ok(self.describe(&self.inner.known(), id, layers))
    }

    fn make_active(
        &self,
        id: &ContainerId,
        layers: &[DiffId],
        user: Option<&UserNamespace>,
    ) -> Result<(), SnapshotError> {
        let failed =
            |source| SnapshotError::Active { action: "create", container: id.clone(), source };
        let active = self.describe(&self.inner.known(), id, layers);
        let dir = self.inner.active_dir(id);
        for (path, mode) in [(&dir, 0o700), (&active.upper, 0o755), (&active.work, 0o700)] {
            fs::DirBuilder::new().mode(mode).create(path).map_err(failed)?;
        }
        match active.lower.first() {
            Some(top) => inherit(top, &active.upper, user).map_err(failed),
            None => Ok(()),
        }
    }

    /// Returns a container's writable snapshot.
    pub fn get(&self, id: &ContainerId) -> Option<Active> {
        let known = self.inner.known();
        let layers = known.actives.get(id)?.as_deref()?;
        Some(self.describe(&known, id, layers))
    }

    fn describe(&self, known: &Known, id: &ContainerId, layers: &[DiffId]) -> Active {
        let dir = self.inner.active_dir(id);
        Active { lower: self.lower(known, layers), upper: dir.join("fs"), work: dir.join("work") }
    }

    /// The lower directories of a mount, topmost first, down to one that hides the rest.
    pub(crate) fn lower(&self, known: &Known, layers: &[DiffId]) -> Vec<PathBuf> {
        let mut lower = Vec::new();
        let mut seen = HashSet::new();
        for layer in layers.iter().rev() {
            // A layer that an image has twice counts where it is on top; the kernel
            // refuses one directory in two places.
            if seen.insert(*layer) {
                lower.push(self.inner.layer_dir(layer));
            }
            if known.layers.get(layer).is_some_and(|seal| seal.opaque) {
                break;
            }
        }
        if lower.is_empty() {
            lower.push(self.inner.root.join("empty"));
        }
        lower
    }

    /// Keeps layers that a container uses beside its own, as those of images that it mounts,
    /// until it is removed.
    ///
    /// # Errors
    /// Fails where a layer is missing.
    pub fn hold(&self, id: &ContainerId, layers: &[DiffId]) -> Result<(), SnapshotError> {
        {
            let mut known = self.inner.known();
            if let Some(missing) = layers.iter().find(|l| !known.layers.contains_key(*l)) {
                return Err(SnapshotError::MissingLayer(*missing));
            }
            known.held.insert(id.clone(), layers.to_vec());
        }
        let kept = self.inner.held.put(id.as_str(), &layers, Durability::Process);
        kept.map_err(|error| {
            self.inner.known().held.remove(id);
            SnapshotError::Record(error)
        })
    }

    /// Returns all containers that have a writable snapshot or hold layers, the damaged ones too.
    pub fn actives(&self) -> Vec<ContainerId> {
        let known = self.inner.known();
        let all: BTreeSet<_> = known.actives.keys().chain(known.held.keys()).cloned().collect();
        all.into_iter().collect()
    }

    /// Removes a container's writable snapshot and what it holds; none is fine.
    ///
    /// # Errors
    /// Fails where files cannot be removed.
    pub fn remove(&self, id: &ContainerId) -> Result<(), SnapshotError> {
        self.inner.held.remove(id.as_str()).map_err(SnapshotError::Record)?;
        self.inner.known().held.remove(id);
        self.inner.discard("active", id.as_str())?;
        self.inner.actives.remove(id.as_str()).map_err(SnapshotError::Record)?;
        self.inner.known().actives.remove(id);
        Ok(())
    }

    /// Adds up what a container has written.
    ///
    /// # Errors
    /// Fails where it has none, or its directory cannot be read.
    pub fn usage(&self, id: &ContainerId) -> Result<Usage, SnapshotError> {
        Ok(self.usage_within(id, u64::MAX)?.unwrap_or_default())
    }

    /// The same, unless those are more than `most` names: then `None`, soon.
    ///
    /// # Errors
    /// Fails where it has none, or its directory cannot be read.
    pub fn usage_within(
        &self,
        id: &ContainerId,
        most: u64,
    ) -> Result<Option<Usage>, SnapshotError> {
        if !self.inner.known().actives.contains_key(id) {
            return Err(SnapshotError::MissingActive(id.clone()));
        }
        let failed =
            |source| SnapshotError::Active { action: "walk", container: id.clone(), source };
        let upper = open_dir(&self.inner.active_dir(id).join("fs")).map_err(failed)?;
        let used = layers::disk_usage_within(upper.as_fd(), most).map_err(failed)?;
        Ok(used.map(|used| Usage { bytes: used.bytes, inodes: used.inodes }))
    }
}

pub(crate) fn check(
    layers: &[DiffId],
    is_there: impl Fn(&DiffId) -> bool,
) -> Result<(), SnapshotError> {
    if layers.len() > MAX_LAYERS {
        return Err(SnapshotError::TooManyLayers { count: layers.len(), max: MAX_LAYERS });
    }
    match layers.iter().find(|layer| !is_there(layer)) {
        Some(missing) => Err(SnapshotError::MissingLayer(*missing)),
        None => Ok(()),
    }
}

/// The upper directory is the container's `/`: it has the mode and owner of the image's. An owner
/// that the container's user namespace does not have is its root.
fn inherit(from: &Path, to: &Path, user: Option<&UserNamespace>) -> io::Result<()> {
    let meta = fs::metadata(from)?;
    let (uid, gid) = match user {
        None => (Some(meta.uid()), Some(meta.gid())),
        Some(user) => (
            user.host_uid(meta.uid()).or_else(|| user.host_uid(0)),
            user.host_gid(meta.gid()).or_else(|| user.host_gid(0)),
        ),
    };
    std::os::unix::fs::chown(to, uid, gid)?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))
}

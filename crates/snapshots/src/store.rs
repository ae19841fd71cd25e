//! The store's directories, and what is known of them in memory.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::CString,
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use layers::Meter;
use rustix::fs::{Mode, OFlags};
use state::Store;
use types::{ContainerId, DiffId, Digest};

use crate::{Filesystem, SnapshotError, Usage, remembered::Remembered, sealing::Sealing};

/// The version of the records on disk.
const RECORD_VERSION: u32 = 1;

/// What a record takes of the disk, on file systems as they usually are.
const RECORD_BYTES: u64 = 4096;

/// The store. Cheap to clone; every call blocks, so it belongs on a blocking thread.
#[derive(Debug, Clone)]
pub struct Snapshots {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) seals: Store,
    pub(crate) actives: Store,
    pub(crate) held: Store,
    known: Mutex<Known>,
    pub(crate) sealing: Sealing,
    /// Of the layers that are being written.
    meters: Mutex<Vec<Weak<Meter>>>,
    next: AtomicU64,
}

/// What is recorded with a layer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Seal {
    #[serde(flatten)]
    pub(crate) usage: Usage,
    /// The tree's sum, in hexadecimal; layers of the first version have none.
    #[serde(default)]
    pub(crate) sum: Option<String>,
    /// Whether there is a split, to make the layer's stream again.
    #[serde(default)]
    pub(crate) split: bool,
    /// Whether the layer hides all below it: its root directory is opaque, which
    /// overlayfs heeds in every directory but the root.
    #[serde(default)]
    pub(crate) opaque: bool,
}

/// What is known without asking the disk.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) layers: BTreeMap<DiffId, Seal>,
    /// `None` where the record could not be read: only to be removed.
    pub(crate) actives: BTreeMap<ContainerId, Option<Vec<DiffId>>>,
    /// Layers that containers use beside their own.
    pub(crate) held: BTreeMap<ContainerId, Vec<DiffId>>,
    pub(crate) pins: HashMap<DiffId, usize>,
    /// Files of images that were looked at.
    pub(crate) files: Remembered,
}

impl Known {
    fn is_below_a_container(&self, id: &DiffId) -> bool {
        let own = self.actives.values().flatten();
        own.chain(self.held.values()).any(|layers| layers.contains(id))
    }
}

impl Snapshots {
    /// Opens the store below `root`, makes it where it is missing (mode 0700), and
    /// removes what an earlier process left half done.
    ///
    /// # Errors
    /// Fails where the directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        for dir in ["layers", "splits", "active", "new", "trash", "old", "empty"] {
            let path = root.join(dir);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| SnapshotError::Store { action: "create", path, source })?;
        }
        let records = |dir: &str, kind: &str| {
            Store::open(&root.join(dir), kind, RECORD_VERSION).map_err(SnapshotError::Record)
        };
        let inner = Inner {
            root: root.to_owned(),
            seals: records("seals", "layer")?,
            actives: records("actives", "active")?,
            held: records("held", "held")?,
            known: Mutex::default(),
            sealing: Sealing::default(),
            meters: Mutex::default(),
            next: AtomicU64::new(0),
        };
        inner.load()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns where the store is.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Returns what all layers together take of the disk, as recorded with them, and as
    /// far as they are written.
    pub fn total_usage(&self) -> Usage {
        let sealed = {
            let known = self.inner.known();
            // Each seal is a file too.
            let records = known.layers.len() as u64;
            let own = Usage { bytes: records * RECORD_BYTES, inodes: records };
            known.layers.values().fold(own, |sum, seal| sum.plus(seal.usage))
        };
        let mut meters = self.inner.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.retain(|meter| meter.strong_count() > 0);
        meters.iter().filter_map(Weak::upgrade).fold(sealed, |sum, meter| {
            let layers::DiskUsage { bytes, inodes } = meter.usage();
            sum.plus(Usage { bytes, inodes })
        })
    }

    /// Returns the figures of the store's file system.
    ///
    /// # Errors
    /// Fails where the kernel does not tell.
    pub fn filesystem(&self) -> Result<Filesystem, SnapshotError> {
        let stat = rustix::fs::statvfs(&self.inner.root).map_err(|errno| SnapshotError::Store {
            action: "ask for the figures of",
            path: self.inner.root.clone(),
            source: errno.into(),
        })?;
        Ok(Filesystem {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_inodes: stat.f_files,
            available_inodes: stat.f_favail,
        })
    }
}

impl Inner {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        // Each change of it is one insertion or removal: it is whole even after a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn layer_dir(&self, id: &DiffId) -> PathBuf {
        self.root.join("layers").join(id.0.hex())
    }

    pub(crate) fn active_dir(&self, id: &ContainerId) -> PathBuf {
        self.root.join("active").join(id.as_str())
    }

    pub(crate) fn split_path(&self, id: &DiffId) -> PathBuf {
        self.root.join("splits").join(id.0.hex())
    }

    pub(crate) fn new_meter(&self) -> Arc<Meter> {
        let meter = Arc::<Meter>::default();
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.retain(|meter| meter.strong_count() > 0);
        meters.push(Arc::downgrade(&meter));
        meter
    }

    /// Clears the place of a layer that does not count. What containers still use of it
    /// stays until they are gone: it is below their mounts.
    pub(crate) fn put_aside(&self, known: &Known, id: &DiffId) -> Result<(), SnapshotError> {
        let hex = id.0.hex();
        self.discard("splits", &hex)?;
        if !known.is_below_a_container(id) {
            return self.discard("layers", &hex);
        }
        let old = format!("{hex}-{}", self.fresh_name());
        match fs::rename(self.layer_dir(id), self.root.join("old").join(old)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(SnapshotError::Layer { action: "put aside", layer: *id, source })
            }
            _ => Ok(()),
        }
    }

    /// Deletes what was put aside and is below no container any more.
    pub(crate) fn sweep_old(&self) -> Result<(), SnapshotError> {
        for name in self.names("old")? {
            let hex = name.split('-').next().unwrap_or_default();
            let id = format!("sha256:{hex}").parse().map(DiffId);
            if !id.is_ok_and(|id| self.known().is_below_a_container(&id)) {
                self.delete("old", &name)?;
            }
        }
        Ok(())
    }

    /// A name that no other file of a temporary directory has.
    pub(crate) fn fresh_name(&self) -> String {
        format!("{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn load(&self) -> Result<(), SnapshotError> {
        self.empty("new")?;
        let mut known = self.known();
        for seal in self.seals.load_all::<Seal>().map_err(SnapshotError::Record)? {
            let Ok(digest) = format!("sha256:{}", seal.name).parse::<Digest>() else { continue };
            let id = DiffId(digest);
            match seal.value {
                Ok(sealed) if self.layer_dir(&id).is_dir() => {
                    known.layers.insert(id, sealed);
                }
                _ => {
                    tracing::warn!(layer = %id, "its seal or its files are damaged: it is thrown away");
                    self.seals.remove(&seal.name).map_err(SnapshotError::Record)?;
                }
            }
        }
        for record in self.actives.load_all::<Vec<DiffId>>().map_err(SnapshotError::Record)? {
            if let Ok(id) = record.name.parse::<ContainerId>() {
                known.actives.insert(id, record.value.ok());
            }
        }
        for record in self.held.load_all::<Vec<DiffId>>().map_err(SnapshotError::Record)? {
            if let Ok(id) = record.name.parse::<ContainerId>() {
                // A damaged one holds nothing, and is removed with its container.
                known.held.insert(id, record.value.unwrap_or_default());
            }
        }
        let is_known = |dir: &str, name: &str| match dir {
            "layers" | "splits" => format!("sha256:{name}")
                .parse()
                .is_ok_and(|d| known.layers.contains_key(&DiffId(d))),
            _ => name.parse().is_ok_and(|id| known.actives.contains_key(&id)),
        };
        for dir in ["layers", "splits", "active"] {
            for name in self.names(dir)? {
                if is_known(dir, &name) {
                    continue;
                }
                match format!("sha256:{name}").parse().map(DiffId) {
                    // Damaged, and below a container that runs on.
                    Ok(id) if dir == "layers" => self.put_aside(&known, &id)?,
                    _ => self.discard(dir, &name)?,
                }
            }
        }
        drop(known);
        self.sweep_old()?;
        self.empty("trash")
    }

    fn names(&self, dir: &str) -> Result<Vec<String>, SnapshotError> {
        let path = self.root.join(dir);
        let failed = |source| SnapshotError::Store { action: "read", path: path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn empty(&self, dir: &str) -> Result<(), SnapshotError> {
        for name in self.names(dir)? {
            self.delete(dir, &name)?;
        }
        Ok(())
    }

    /// Takes a directory out of sight at once and deletes it. What a crash interrupts
    /// is deleted at the next start.
    pub(crate) fn discard(&self, dir: &str, name: &str) -> Result<(), SnapshotError> {
        match self.hide(dir, name)? {
            Some(trash) => self.delete("trash", &trash),
            None => Ok(()),
        }
    }

    /// Takes a directory out of sight. Returns what is to be deleted of the trash.
    pub(crate) fn hide(&self, dir: &str, name: &str) -> Result<Option<String>, SnapshotError> {
        let trash = self.fresh_name();
        match fs::rename(self.root.join(dir).join(name), self.root.join("trash").join(&trash)) {
            Ok(()) => Ok(Some(trash)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            // A full disk may refuse the rename, but never the deletion.
            Err(_) => self.delete(dir, name).map(|()| None),
        }
    }

    pub(crate) fn delete(&self, dir: &str, name: &str) -> Result<(), SnapshotError> {
        let path = self.root.join(dir);
        let failed =
            |source| SnapshotError::Store { action: "delete", path: path.join(name), source };
        let parent = self.open_dir(dir)?;
        let name = CString::new(name).map_err(|e| failed(e.into()))?;
        layers::remove_tree(parent.as_fd(), &name).map_err(failed)
    }

    pub(crate) fn open_dir(&self, dir: &str) -> Result<OwnedFd, SnapshotError> {
        let path = self.root.join(dir);
        open_dir(&path).map_err(|source| SnapshotError::Store { action: "open", path, source })
    }
}

pub(crate) fn open_dir(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

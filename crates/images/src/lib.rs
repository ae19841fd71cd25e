//! The image service.
#![forbid(unsafe_code)]

mod auth;
mod error;
mod options;
mod platform;
mod progress;
pub mod reference;
pub mod tls;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use snapshots::Snapshots;
use types::{Image, ImageId};

pub use auth::Auth;
pub use error::{OpenError, PullError, PullErrorKind, RemoveError};
pub use options::{ImageLimits, ImagesOptions, NetworkOptions};
pub use platform::Platform;
pub use progress::PullProgress;

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

/// The image service.
#[derive(Debug)]
pub struct Images {}

impl Images {
    /// Opens the store. Blocks; belongs at the start.
    ///
    /// # Errors
    /// Fails where the store's directory or its records cannot be read.
    pub fn open(options: ImagesOptions, snapshots: Snapshots) -> Result<Arc<Self>, OpenError> {
        let _ = (options, snapshots);
        todo!()
    }

    /// Pulls an image. Calls for one image with the same credentials share one pull,
    /// which runs on when a caller leaves.
    ///
    /// # Errors
    /// See [`PullError::kind`] for the classes.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &str,
        auth: Option<Auth>,
    ) -> Result<Arc<Image>, PullError> {
        let _ = (reference, auth);
        todo!()
    }

    /// Returns the image of an id (whole or a unique prefix, with or without
    /// `sha256:`) or of a name. From memory.
    pub fn get(&self, image: &str) -> Option<Arc<Image>> {
        let _ = image;
        todo!()
    }

    /// Returns all images. From memory.
    pub fn list(&self) -> Vec<Arc<Image>> {
        todo!()
    }

    /// Removes the image of an id or name, with all of its names; none is fine.
    ///
    /// # Errors
    /// Fails where its record cannot be removed.
    pub async fn remove(self: &Arc<Self>, image: &str) -> Result<Option<ImageId>, RemoveError> {
        let _ = image;
        todo!()
    }

    /// Loads all images of an OCI layout, an archive of one, or an archive of
    /// `docker save`, compressed or not.
    ///
    /// # Errors
    /// See [`PullError::kind`] for the classes.
    pub async fn load(self: &Arc<Self>, path: &Path) -> Result<Vec<LoadedImage>, PullError> {
        let _ = path;
        todo!()
    }

    /// Returns what the images take of the disk. From memory.
    pub fn fs_usage(&self) -> FsUsage {
        todo!()
    }

    /// Returns how far the pulls are that run now.
    pub fn pulls(&self) -> Vec<PullProgress> {
        todo!()
    }
}

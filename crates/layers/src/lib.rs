//! A layer's bytes (an uncompressed tar stream, hostile) → a directory tree in
//! overlayfs' form.
//!
//! Owned here: a strict tar reader, the applier that puts its entries below one
//! directory handle, and walks over such trees (usage, removal). What must never
//! happen: that a byte of the stream makes anything outside that handle be read,
//! written, changed or removed, or that memory grows with the stream.
//!
//! ```text
//! bytes ─► tar::Archive (headers, PAX, GNU, sparse) ─► apply (names → handles) ─► tree
//! ```
//!
//! `images` unpacks, `snapshots` gives the directory and takes the [`Summary`].
#![forbid(unsafe_code)]

mod apply;
mod dirs;
mod error;
mod limits;
mod names;
mod room;
mod tar;
mod tree;
mod xattrs;

use std::io::Read;

use rustix::fd::BorrowedFd;

pub use error::{UnpackError, UnpackErrorKind};
pub use limits::Limits;
pub use tree::{DiskUsage, disk_usage, remove_tree};

/// What an unpacked layer has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries of the stream, those without a file of their own included.
    pub entries: u64,
    /// Disk space, in bytes, rounded up to the file system's blocks.
    pub bytes: u64,
    /// Files, directories and links that exist, each inode once.
    pub inodes: u64,
    /// Extended attributes and device nodes that were dropped: overlayfs' own,
    /// foreign labels, and those that the file system does not take.
    pub dropped: u64,
}

/// Unpacks the tar stream `reader` into the empty directory `root`, and reads the
/// stream to its end (so that a digest taken from it covers every byte).
///
/// After an error the directory holds a part of the layer: the caller throws it
/// away. To cancel, let `reader` return an error.
///
/// # Errors
/// See [`UnpackErrorKind`] for the classes.
pub fn unpack(
    reader: &mut dyn Read,
    root: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Summary, UnpackError> {
    let mut archive = tar::Archive::new(reader, limits);
    apply::Applier::new(root, limits)?.run(&mut archive)
}

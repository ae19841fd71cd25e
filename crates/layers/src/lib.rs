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
mod makers;
mod names;
mod room;
mod split;
mod sum;
mod tar;
mod tree;
mod xattrs;

use std::{
    io::{Read, Write},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustix::fd::BorrowedFd;

pub use error::{UnpackError, UnpackErrorKind};
pub use limits::Limits;
pub use split::rebuild;
pub use sum::{TreeSum, tree_sum};
pub use tree::{DiskUsage, disk_usage, disk_usage_within, remove_tree};

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
    /// Whether entries replaced earlier ones.
    pub replaced: bool,
    /// Whether [`rebuild`] can make the stream again.
    pub split: bool,
}

/// How far an unpacking is: what the tree takes by now.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    inodes: AtomicU64,
}

impl Meter {
    /// What the tree takes by now.
    pub fn usage(&self) -> DiskUsage {
        DiskUsage { bytes: self.bytes.load(Relaxed), inodes: self.inodes.load(Relaxed) }
    }

    fn set(&self, bytes: u64, inodes: u64) {
        self.bytes.store(bytes, Relaxed);
        self.inodes.store(inodes, Relaxed);
    }
}

/// What an unpacking does beside unpacking.
#[derive(Default)]
pub struct Extras<'a> {
    /// Is told how far it is.
    pub meter: Option<&'a Meter>,
    /// Takes down what [`rebuild`] needs; see [`Summary::split`].
    pub split: Option<Box<dyn Write + 'a>>,
    /// How many threads make small files beside this one.
    pub makers: usize,
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
    unpack_with(reader, root, limits, Extras::default())
}

/// The same, with more.
///
/// # Errors
/// See [`UnpackErrorKind`] for the classes.
pub fn unpack_with(
    reader: &mut dyn Read,
    root: BorrowedFd<'_>,
    limits: &Limits,
    extras: Extras<'_>,
) -> Result<Summary, UnpackError> {
    let Extras { meter, split, makers } = extras;
    let mut archive = tar::Archive::new(reader, limits, split);
    let summary = apply::Applier::new(root, limits, makers, meter)?.run(&mut archive)?;
    // What was replaced is no longer there to be read.
    Ok(Summary { split: archive.finish_split() && !summary.replaced, ..summary })
}

//! Walks over trees that others filled.
use std::{ffi::CStr, io};

use rustix::fd::BorrowedFd;

/// What a tree takes of its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Disk space, in bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Removes `name` below `parent`, with everything in it.
///
/// # Errors
/// Fails where something cannot be removed.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let _ = (parent, name);
    todo!()
}

/// Adds up the tree `root`, which may change meanwhile.
///
/// # Errors
/// Fails where a directory cannot be read.
pub fn disk_usage(root: BorrowedFd<'_>) -> io::Result<DiskUsage> {
    let _ = root;
    todo!()
}

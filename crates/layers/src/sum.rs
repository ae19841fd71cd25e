//! A tree's figures and its sum: what must be the same whenever the tree is looked at.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::fs::{FileType, Stat};
use sha2::{Digest as _, Sha256};

use crate::{
    DiskUsage,
    tree::{Found, walk},
    xattrs::OPAQUE,
};

/// What a tree takes, and what it is: every name with its kind, mode, owner, size, time,
/// target or device. Not the files' bytes: reading all of them is another matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeSum {
    /// What it takes of its file system.
    pub usage: DiskUsage,
    /// Its sum.
    pub sum: u128,
}

/// Walks a tree that nobody changes.
///
/// # Errors
/// Fails where something in it cannot be looked at.
pub fn tree_sum(root: BorrowedFd<'_>) -> io::Result<TreeSum> {
    let mut sum = 0_u128;
    let usage = walk(root, &mut |found| {
        // The order in which a directory is read is nobody's promise, so they are added.
        sum = sum.wrapping_add(of_entry(found)?);
        Ok(())
    })?;
    Ok(TreeSum { usage, sum })
}

fn of_entry(found: &Found<'_>) -> io::Result<u128> {
    let Stat { st_mode, st_uid, st_gid, st_size, st_mtime, st_mtime_nsec, st_rdev, .. } =
        found.stat;
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(found.dir);
    part(found.name);
    let numbers = [
        u64::from(*st_mode),
        u64::from(*st_uid),
        u64::from(*st_gid),
        st_mtime.cast_unsigned(),
        *st_mtime_nsec,
    ];
    numbers.iter().for_each(|number| part(&number.to_le_bytes()));
    match FileType::from_raw_mode(*st_mode) {
        FileType::RegularFile => part(&st_size.to_le_bytes()),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(found.at, found.name, Vec::new())?;
            part(target.as_bytes());
        }
        FileType::CharacterDevice | FileType::BlockDevice => part(&st_rdev.to_le_bytes()),
        // A directory's size is the file system's own affair.
        FileType::Directory => part(&[u8::from(is_opaque(found)?)]),
        _ => {}
    }
    let digest = hash.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    Ok(u128::from_le_bytes(half))
}

fn is_opaque(found: &Found<'_>) -> io::Result<bool> {
    use rustix::{fs::OFlags, io::Errno};
    let dir = crate::dirs::open_dir(found.at.as_fd(), found.name, OFlags::RDONLY)?;
    let mut value = [0_u8; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value) {
        Ok(_) => Ok(&value == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

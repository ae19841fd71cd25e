//! Extended attributes: ours that overlayfs reads, and those of the stream.

use std::os::fd::AsRawFd;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::XattrFlags,
    io::Errno,
};

/// Overlayfs' mark of a directory that hides those below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// Marks a directory opaque.
pub(crate) fn set_opaque(dir: OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())
}

/// Tells whether an attribute of a layer is set at all. Overlayfs' own would forge
/// what is hidden or redirected; `trusted.*` and the labels of security modules are
/// the machine's to give.
fn admitted(name: &[u8]) -> bool {
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    user || matches!(
        name,
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default"
    )
}

/// Sets the attributes of an open file or directory. Returns how many were dropped.
pub(crate) fn set(file: BorrowedFd<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) -> rustix::io::Result<u64> {
    each(xattrs, |name, value| rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()))
}

/// Sets the attributes of `name` in `dir`, which may be a link or a device and cannot
/// be opened. The way over /proc leads to the directory's handle, and the last part
/// is not followed.
pub(crate) fn set_at(
    dir: impl AsFd,
    name: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
) -> rustix::io::Result<u64> {
    if xattrs.is_empty() {
        return Ok(0);
    }
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    each(xattrs, |name, value| {
        rustix::fs::lsetxattr(path.as_slice(), name, value, XattrFlags::empty())
    })
}

fn each(
    xattrs: &[(Vec<u8>, Vec<u8>)],
    mut set: impl FnMut(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> rustix::io::Result<u64> {
    let mut dropped = 0;
    for (name, value) in xattrs {
        if !admitted(name) {
            dropped += 1;
            continue;
        }
        match set(name, value) {
            Ok(()) => {}
            // The file system does not take it, this kind of file has none, or its
            // form is bad (a damaged capability must not lose the whole layer).
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL | Errno::RANGE | Errno::TOOBIG) => {
                dropped += 1
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(dropped)
}

//! mount_setattr.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Read-only.
pub const ATTR_RDONLY: u64 = 0x1;
/// Set-user-id bits and file capabilities are ignored.
pub const ATTR_NOSUID: u64 = 0x2;
/// Device nodes cannot be opened.
pub const ATTR_NODEV: u64 = 0x4;
/// Nothing is executed from here.
pub const ATTR_NOEXEC: u64 = 0x8;
/// The bits that say how access times are kept.
pub const ATTR_ATIME: u64 = 0x70;
/// Access times are never kept.
pub const ATTR_NOATIME: u64 = 0x10;
/// Access times are always kept.
pub const ATTR_STRICTATIME: u64 = 0x20;
/// Access times of directories are never kept.
pub const ATTR_NODIRATIME: u64 = 0x80;
/// Symbolic links are not followed.
pub const ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

/// Whether an overlay takes its layers one by one, as fsconfig(2)'s `lowerdir+` (Linux 6.5). An
/// older kernel refuses that, and says so in its log each time.
pub fn overlay_takes_layers() -> bool {
    crate::kernel::version().is_none_or(|version| version >= (6, 5))
}

/// Changes to a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `ATTR_*` bits to set.
    pub set: u64,
    /// `ATTR_*` bits to clear.
    pub clear: u64,
    /// The new propagation, if any.
    pub propagation: Option<Propagation>,
}

/// How mount events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither in nor out.
    Private,
    /// In only.
    Slave,
    /// Both ways.
    Shared,
    /// Private, and it cannot be bound.
    Unbindable,
}

impl MountAttr {
    /// Tells whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Changes the mount behind `mount`, and those below it when `recursive`.
///
/// # Errors
/// The kernel's.
pub fn set_attributes(mount: impl AsFd, attr: MountAttr, recursive: bool) -> io::Result<()> {
    set_raw(mount.as_fd().as_raw_fd(), c"", libc::AT_EMPTY_PATH, &raw(attr), recursive)
}

/// Changes the mount at an absolute path, and those below it when `recursive`.
///
/// # Errors
/// The kernel's.
pub fn set_attributes_at(path: &CStr, attr: MountAttr, recursive: bool) -> io::Result<()> {
    set_raw(libc::AT_FDCWD, path, 0, &raw(attr), recursive)
}

/// Shows the files of the mount behind `mount`, and of those below it when `recursive`, with the
/// owners that a user namespace makes of the stored ones: the user that is stored as 0 is shown as
/// the namespace's root. The mount must not be attached yet.
///
/// # Errors
/// The kernel's; `EINVAL` where a file system does not know of it.
pub fn map_ids(
    mount: impl AsFd,
    user_namespace: BorrowedFd<'_>,
    recursive: bool,
) -> io::Result<()> {
    let raw = RawAttr {
        attr_set: ATTR_IDMAP,
        userns_fd: u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?,
        ..RawAttr::default()
    };
    set_raw(mount.as_fd().as_raw_fd(), c"", libc::AT_EMPTY_PATH, &raw, recursive)
}

const ATTR_IDMAP: u64 = 0x0010_0000;

#[derive(Default)]
#[repr(C)]
struct RawAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

const AT_RECURSIVE: libc::c_int = 0x8000;

fn raw(attr: MountAttr) -> RawAttr {
    let propagation = match attr.propagation {
        None => 0,
        Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
    };
    RawAttr { attr_set: attr.set, attr_clr: attr.clear, propagation, userns_fd: 0 }
}

fn set_raw(
    dir: libc::c_int,
    path: &CStr,
    flags: libc::c_int,
    raw: &RawAttr,
    recursive: bool,
) -> io::Result<()> {
    let flags = if recursive { flags | AT_RECURSIVE } else { flags };
    // SAFETY: rustix has no mount_setattr. The path ends in a zero byte, `raw` has the layout of
    // the kernel's `struct mount_attr` (all fields 64 bits wide) and both outlive the call.
    crate::check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(raw),
            size_of::<RawAttr>(),
        )
    })?;
    Ok(())
}

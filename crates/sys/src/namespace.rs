//! New namespaces for the calling thread, and handles of those that are pinned.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::thread::UnshareFlags;

/// The file system of namespace handles (`linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Namespaces to be made; descriptor tables and memory are never unshared here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewNamespaces {
    /// Mounts.
    pub mount: bool,
    /// Network.
    pub net: bool,
    /// System V IPC and message queues.
    pub ipc: bool,
    /// Host and domain name.
    pub uts: bool,
    /// The view of the cgroup tree.
    pub cgroup: bool,
    /// Users and groups; what is made with it is owned by it.
    pub user: bool,
}

/// Puts the calling thread into new namespaces.
///
/// # Errors
/// The kernel's.
pub fn unshare(new: NewNamespaces) -> io::Result<()> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWNS, new.mount);
    flags.set(UnshareFlags::NEWNET, new.net);
    flags.set(UnshareFlags::NEWIPC, new.ipc);
    flags.set(UnshareFlags::NEWUTS, new.uts);
    flags.set(UnshareFlags::NEWCGROUP, new.cgroup);
    flags.set(UnshareFlags::NEWUSER, new.user);
    if flags.is_empty() {
        return Ok(());
    }
    // SAFETY: unsafe for CLONE_FILES alone, which is not among these flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Opens a namespace that is pinned at a path.
///
/// # Errors
/// The kernel's, and where something else is there.
pub fn open(pin: &Path) -> io::Result<OwnedFd> {
    let file = File::open(pin)?;
    if rustix::fs::fstatfs(&file)?.f_type == NSFS_MAGIC {
        return Ok(file.into());
    }
    Err(io::Error::other("not a namespace: the pin is gone"))
}

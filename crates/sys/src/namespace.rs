//! New namespaces for the calling process.

use std::io;

use rustix::thread::UnshareFlags;

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

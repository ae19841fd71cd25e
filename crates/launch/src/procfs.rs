//! Procfs mounts of our own, attached nowhere: nobody can have mounted anything over them.
//!
//! The parent makes each once and keeps it. A child that made its own would give it back, and the
//! kernel waits for a grace period whenever a mount goes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use crate::step::{Done, During};
use crate::{Step, filesystem};

/// A mount that children of this process use.
struct Kept(OnceLock<OwnedFd>);

/// The processes alone, as this process numbers them: no parameter of the kernel can be written
/// by it, so that a child may have it inside a container.
static PROCESSES: Kept = Kept(OnceLock::new());

/// All of it.
static ALL: Kept = Kept(OnceLock::new());

impl Kept {
    fn keep(&self, make: impl FnOnce() -> io::Result<OwnedFd>) {
        if self.0.get().is_none()
            && let Ok(mount) = make()
        {
            // Whoever was faster has kept the same.
            let _ = self.0.set(mount);
        }
    }

    /// A handle of one's own, to be kept when those of the parent are closed. Not to be called
    /// after that: what is kept is one of them.
    fn open(&self, make: impl FnOnce() -> io::Result<OwnedFd>) -> Done<OwnedFd> {
        match self.0.get() {
            Some(kept) => rustix::io::fcntl_dupfd_cloexec(kept, FIRST_OTHER).map_err(Into::into),
            None => make(),
        }
        .during(Step::Sysctl, "failed to open a fresh procfs")
    }
}

/// The first descriptor that is not standard.
const FIRST_OTHER: i32 = 3;

/// Keeps the processes for children that are cloned from now on.
pub(crate) fn keep_processes() {
    PROCESSES.keep(make_processes);
}

/// Opens a procfs in which the caller finds itself as `self`, and may find nothing but processes;
/// before the parent's descriptors are closed.
pub(crate) fn processes() -> Done<OwnedFd> {
    PROCESSES.open(make_processes)
}

/// Keeps a whole procfs for children that are cloned from now on.
pub(crate) fn keep_all() {
    ALL.keep(make_all);
}

/// Opens a whole procfs, before the parent's descriptors are closed. Parameters of the kernel in it
/// are those of the caller's namespaces.
pub(crate) fn all() -> Done<OwnedFd> {
    ALL.open(make_all)
}

/// Opens a whole procfs that is the caller's alone.
pub(crate) fn fresh() -> Done<OwnedFd> {
    make_all().during(Step::Sysctl, "failed to open a fresh procfs")
}

fn make_all() -> io::Result<OwnedFd> {
    filesystem::new_mount("proc", Some("proc"), &[])
}

fn make_processes() -> io::Result<OwnedFd> {
    // Before Linux 5.8 there is none of processes alone.
    filesystem::new_mount("proc", Some("proc"), &[("subset", Some("pid"))]).or_else(|_| make_all())
}

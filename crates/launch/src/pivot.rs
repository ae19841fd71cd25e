//! Changing to the new root, and the working directory in it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::mount::UnmountFlags;

use crate::step::{Done, During};
use crate::{ChildFailure, Step};

/// Makes the new root the root and takes the host's away.
///
/// Both are at `.` for a moment: the new root is stacked below the old one, so no directory is
/// needed for it.
pub(crate) fn enter(root: &OwnedFd) -> Done {
    rustix::process::fchdir(root)
        .and_then(|()| rustix::process::pivot_root(".", "."))
        .during(Step::Pivot, "failed to change the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .and_then(|()| rustix::process::chdir("/"))
        .during(Step::Pivot, "failed to leave the host's root")
}

/// Makes the working directory inside the root where it is missing.
pub(crate) fn ensure_cwd(root: &OwnedFd, cwd: &Path) -> Done<OwnedFd> {
    sys::root::mkdir_p(root, cwd).during_on(Step::Cwd, "failed to make the working directory", cwd)
}

/// Enters the working directory; false when the user may have to be changed first.
pub(crate) fn enter_cwd(root: &OwnedFd, cwd: &Path) -> Done<bool> {
    let during = "failed to enter the working directory";
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let entered = sys::root::open(root, cwd, flags)
        .and_then(|dir| rustix::process::fchdir(&dir).map_err(io::Error::from));
    match entered {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
        result => result.during_on(Step::Cwd, during, cwd)?,
    }
    // Outside of the root the kernel names no absolute path.
    let real = rustix::process::getcwd(Vec::new()).during_on(Step::Cwd, during, cwd)?;
    if !real.as_bytes().starts_with(b"/") {
        let message = format!("the working directory {} is outside the container", cwd.display());
        return Err(ChildFailure::new(Step::Cwd, message).on(cwd));
    }
    Ok(true)
}

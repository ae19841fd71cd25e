//! Ranges of descriptors.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::clone::ChildToken;

/// Marks every descriptor from `first` up to be closed by execve.
///
/// # Errors
/// The kernel's.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor above 2 that is not in `keep`, in a child that has just been cloned.
///
/// The copies of the parent's owners in the child must not be used or dropped afterwards: the
/// child ends by execve or [`crate::clone::exit_now`], where no destructor runs.
///
/// # Errors
/// The kernel's.
pub fn close_inherited(_child: &ChildToken, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().filter_map(|fd| fd.as_raw_fd().try_into().ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX, 0)
}

/// Closes every descriptor, in a child that has just been cloned and that will never execute
/// anything: the rules of [`close_inherited`] apply to all.
///
/// # Errors
/// The kernel's.
pub fn close_all(_child: &ChildToken) -> io::Result<()> {
    close_range(0, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: rustix has no close_range. It takes integers; the callers above keep the promise
    // that no owner of a closed descriptor is used.
    crate::check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })?;
    Ok(())
}

//! What a program does before it does anything else.

use std::io;

/// Closes every descriptor above 2: what a careless parent left open.
///
/// To be called first in `main`, before the program or a library of it has opened anything: a
/// descriptor above 2 has no owner in this process then.
///
/// # Errors
/// The kernel's.
pub fn close_foreign() -> io::Result<()> {
    let (first, last, flags): (libc::c_uint, libc::c_uint, libc::c_uint) =
        (3, libc::c_uint::MAX, 0);
    // SAFETY: rustix has no close_range. It takes integers; by the contract above nothing in this
    // process owns a descriptor that is closed.
    crate::check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })?;
    Ok(())
}

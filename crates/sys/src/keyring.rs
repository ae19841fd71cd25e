//! Session keyrings.

use std::ffi::CStr;
use std::io;

/// Gives the calling process a new session keyring of this name.
///
/// # Errors
/// The kernel's; `ENOSYS` where it has no keys, `EDQUOT` where the user has too many.
pub fn join_session(name: &CStr) -> io::Result<()> {
    // SAFETY: rustix has no keyctl. The name ends in a zero byte and outlives the call.
    crate::check(unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })?;
    Ok(())
}

//! Loading a system call filter.

use std::io;

/// One instruction of a classic BPF program.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SockFilter {
    /// The operation.
    pub code: u16,
    /// Instructions to skip when the test holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Installs the filter on the calling thread for good.
///
/// # Errors
/// `EACCES` without CAP_SYS_ADMIN and without no_new_privs; `EINVAL` for a program that the
/// kernel does not take.
pub fn load(filter: &[SockFilter], flags: u32) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = RawProgram { length, filter: filter.as_ptr() };
    // SAFETY: rustix has no seccomp. `program` has the layout of the kernel's `struct sock_fprog`,
    // its pointer and length are of one slice; the kernel copies both before it returns.
    crate::check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    })?;
    Ok(())
}

#[repr(C)]
struct RawProgram {
    length: u16,
    filter: *const SockFilter,
}

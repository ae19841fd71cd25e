//! System calls that rustix lacks, and small safe shapes around those that it has.
//!
//! The only crate with unsafe code. One topic a file; each block says why it is needed and why it
//! is sound. What must never happen: a descriptor with two owners; a fork of a process with
//! threads, but to execute at once.
#![warn(clippy::undocumented_unsafe_blocks)]

pub mod bpf;
pub mod cgroup;
pub mod children;
pub mod clone;
pub mod exec;
pub mod fds;
pub mod kernel;
pub mod keyring;
pub mod memfd;
pub mod message;
pub mod mount;
pub mod namespace;
pub mod pidfd;
pub mod root;
pub mod seccomp;
pub mod signals;
pub mod spawn;
pub mod startup;
pub mod title;

use std::io;

/// Turns the result of a raw system call into ours.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor.
///
/// # Errors
/// The kernel's.
#[expect(
    deprecated,
    reason = "the replacement is unsafe, for types whose descriptor may change or close; an \
              `OwnedFd` keeps its own until it is dropped"
)]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

//! Descriptors that the runtime watches.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Has the runtime watch a descriptor that does not block.
#[expect(
    deprecated,
    reason = "the replacement is unsafe, for types whose descriptor may change or close; an \
              `OwnedFd` keeps its own until it is dropped"
)]
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

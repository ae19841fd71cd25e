//! Entering network namespaces, and the loopback interface.
//!
//! A namespace is entered only by a thread made for it, which ends with the work: no
//! other thread of the daemon is ever in a pod's namespace.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{NetworkError, netlink::route::Routes};

/// Opens a pinned namespace.
pub(crate) fn open(netns: &Path) -> Result<OwnedFd, NetworkError> {
    sys::namespace::open(netns)
        .map_err(|source| NetworkError::Namespace { netns: netns.to_owned(), source })
}

/// Reports whether a path is a pinned namespace still.
pub(crate) fn exists(netns: &Path) -> bool {
    sys::namespace::open(netns).is_ok()
}

/// Runs `work` on a thread of its own inside a network namespace.
pub(crate) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let entered = thread::Builder::new().name("corten-netns".to_owned()).spawn_scoped(
            scope,
            move || {
                move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
                Ok(work())
            },
        )?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// Sets `lo` of a namespace up.
pub(crate) fn setup_loopback(netns: &Path) -> Result<(), NetworkError> {
    let file = open(netns)?;
    inside(file.as_fd(), loopback_up)
        .map_err(|source| NetworkError::Namespace { netns: netns.to_owned(), source })?
        .map_err(|source| NetworkError::Loopback { netns: netns.to_owned(), source })
}

fn loopback_up() -> io::Result<()> {
    let mut routes = Routes::open()?;
    let lo = routes.link("lo")?.ok_or_else(|| io::Error::other("there is no lo"))?;
    routes.set_up(lo.index)
}

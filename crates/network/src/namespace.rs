//! Entering network namespaces, and the loopback interface.
//!
//! A namespace is entered only by a thread made for it, which ends with the work: no
//! other thread of the daemon is ever in a pod's namespace.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{NetworkError, netlink::route::Routes};

/// The file system of namespace handles (`linux/magic.h`).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Opens a pinned namespace.
pub(crate) fn open(netns: &Path) -> Result<File, NetworkError> {
    let failed = |source| NetworkError::Namespace { netns: netns.to_owned(), source };
    let file = File::open(netns).map_err(failed)?;
    match is_namespace(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(failed(io::Error::other("not a namespace: the pin is gone"))),
        Err(error) => Err(failed(error)),
    }
}

/// Reports whether a path is a pinned namespace still.
pub(crate) fn exists(netns: &Path) -> bool {
    File::open(netns).is_ok_and(|file| is_namespace(&file).unwrap_or(false))
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

fn is_namespace(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(file)?.f_type == NSFS_MAGIC)
}

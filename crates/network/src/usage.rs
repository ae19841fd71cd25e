//! What the interfaces of pods have carried.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{NetworkError, namespace, netlink::route::Routes};

/// An interface's counters, since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceUsage {
    /// Its name in the pod.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received that were broken.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// What was read in each network namespace.
pub type NamespaceUsage = HashMap<PathBuf, Result<Vec<InterfaceUsage>, NetworkError>>;

/// Reads the counters of all interfaces but the loopback in each of some pinned network
/// namespaces. Blocks; one thread of its own enters them in turn.
///
/// # Errors
/// Fails where no thread can be had.
pub fn interface_usage(namespaces: Vec<PathBuf>) -> io::Result<NamespaceUsage> {
    if namespaces.is_empty() {
        return Ok(HashMap::new());
    }
    let reading = || {
        let read = |netns: PathBuf| {
            let usage = namespace::open(&netns).and_then(|file| read(&netns, &file));
            (netns, usage)
        };
        namespaces.into_iter().map(read).collect()
    };
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("corten-netns".to_owned());
        let entered = builder.spawn_scoped(scope, reading)?;
        entered.join().map_err(|_| io::Error::other("the thread panicked"))
    })
}

fn read(netns: &Path, file: &OwnedFd) -> Result<Vec<InterfaceUsage>, NetworkError> {
    let counters = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Routes::open()?.counters()
    };
    counters().map_err(|source| NetworkError::Namespace { netns: netns.to_owned(), source })
}

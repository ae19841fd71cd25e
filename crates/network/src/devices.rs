//! Network devices of the node that move into a pod's network for a container of it, as the OCI
//! runtime specification 1.3 says (`linux.netDevices`): with another name if that is asked for,
//! with the addresses that somebody gave them, and up.
//!
//! They are not taken back: with the pod's namespace the kernel gives hardware back to the node's
//! first namespace, and removes what exists in software alone. So it is with runc.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    INTERFACE, NetworkError, Subnet, namespace,
    netlink::route::{LinkAddress, Routes},
};

/// A network device of the node, and what it is to be called in the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDevice {
    /// What the node calls it.
    pub host_name: String,
    /// What the pod calls it.
    pub name: String,
}

/// Moves devices into a namespace; one that an earlier container of the pod was given is there
/// already.
pub(crate) fn take(netns: &Path, devices: &[NodeDevice]) -> Result<(), NetworkError> {
    let pod = namespace::open(netns)?;
    for device in devices {
        take_one(&pod, device).map_err(|source| NetworkError::Device {
            name: device.host_name.clone(),
            netns: netns.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn take_one(pod: &OwnedFd, device: &NodeDevice) -> io::Result<()> {
    let NodeDevice { host_name, name } = device;
    let failed = |text: String| Err(io::Error::other(text));
    let mut node = Routes::open()?;
    let there = namespace::inside(pod.as_fd(), || Routes::open()?.link(name))??;
    let link = match (node.link(host_name)?, there) {
        (Some(link), None) => link,
        // The pod's own interface is nobody's device.
        (None, Some(_)) if name != INTERFACE => return Ok(()),
        (None, _) => return failed(format!("the node has no interface {host_name}")),
        (Some(_), Some(_)) => return failed(format!("the pod has an interface {name} already")),
    };
    let addresses = node.lasting_addresses(link.index)?;
    node.move_link(link.index, name, pod.as_fd())?;
    let Err(error) = namespace::inside(pod.as_fd(), || bring_up(name, &addresses))? else {
        return Ok(());
    };
    // As it was, as far as that can be: the next try finds it.
    let own = File::open("/proc/thread-self/ns/net")?;
    let back = namespace::inside(pod.as_fd(), || {
        let mut routes = Routes::open()?;
        match routes.link(name)? {
            Some(link) => routes.move_link(link.index, host_name, own.as_fd()),
            None => Ok(()),
        }
    })?;
    if let Err(undo) = back.and_then(|()| bring_up(host_name, &addresses)) {
        tracing::warn!(device = host_name, error = %undo, "a device that a pod could not have is not as it was");
    }
    Err(error)
}

/// Gives an interface of the calling thread's namespace its addresses, and sets it up.
fn bring_up(name: &str, addresses: &[Subnet]) -> io::Result<()> {
    let mut routes = Routes::open()?;
    let link = routes.link(name)?.ok_or_else(|| io::Error::other(format!("{name} is gone")))?;
    for address in addresses {
        routes.add_address(LinkAddress { index: link.index, address: *address })?;
    }
    routes.set_up(link.index)
}

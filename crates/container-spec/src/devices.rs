//! Device nodes of the node for a container, and the rules of its device cgroup.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType};
use types::Device;

use crate::{
    SpecError, SpecInput,
    text::{check_count, check_no_nul, clean_path, shown},
};

/// How many devices a container may have, and how many nodes are looked at for it. Large
/// machines have a few thousand.
pub const MAX_DEVICES: usize = 16_384;
/// How deep directories of devices are walked.
const MAX_DEPTH: usize = 16;

/// Names in `/dev` that are not devices of the node but a container's own.
const NOT_THE_NODES: [&str; 9] =
    ["console", "fd", "mqueue", "ptmx", "pts", "shm", ".lxc", ".lxd-mounts", ".udev"];

/// The node's devices, as far as a spec needs to know them.
pub trait HostDevices {
    /// The node at a path, following links, or all nodes below it if it is a directory.
    ///
    /// # Errors
    ///
    /// The path cannot be looked at.
    fn at(&self, path: &Path) -> io::Result<Vec<DeviceNode>>;

    /// All nodes that a privileged container gets.
    ///
    /// # Errors
    ///
    /// The directory of devices cannot be listed.
    fn all(&self) -> io::Result<Vec<DeviceNode>>;
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where it is on the node.
    pub path: PathBuf,
    /// Whether it is a block device, and not a character device.
    pub block: bool,
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The devices in `/dev` of this node.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeDevices;

impl HostDevices for NodeDevices {
    fn at(&self, path: &Path) -> io::Result<Vec<DeviceNode>> {
        let mut nodes = Vec::new();
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            walk(path, &[], MAX_DEPTH, &mut nodes)?;
        } else {
            nodes.extend(node(path.to_owned(), &metadata));
        }
        Ok(nodes)
    }

    fn all(&self) -> io::Result<Vec<DeviceNode>> {
        let mut nodes = Vec::new();
        walk(Path::new("/dev"), &NOT_THE_NODES, MAX_DEPTH, &mut nodes)?;
        Ok(nodes)
    }
}

/// Lists nodes below a directory, sorted by path. Links are not followed, and what vanishes
/// meanwhile is passed over.
fn walk(dir: &Path, skip: &[&str], depth: usize, nodes: &mut Vec<DeviceNode>) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(dir)?.filter_map(Result::ok).collect();
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        if skip.iter().any(|name| entry.file_name() == *name) || nodes.len() > MAX_DEVICES {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            if depth > 0 {
                // A directory may vanish, and one file system in it may not answer.
                let _passed_over = walk(&entry.path(), &[], depth - 1, nodes);
            }
        } else {
            nodes.extend(node(entry.path(), &metadata));
        }
    }
    Ok(())
}

fn node(path: PathBuf, metadata: &fs::Metadata) -> Option<DeviceNode> {
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| DeviceNode {
        path,
        block: kind.is_block_device(),
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// Nodes to be made, and what may be done with them.
pub(crate) struct Devices {
    pub(crate) nodes: Vec<LinuxDevice>,
    pub(crate) rules: Vec<LinuxDeviceCgroup>,
}

/// Settles the devices of a container. A privileged one has all of the node's; any other
/// has those that every container has (the launcher makes them) and those it asks for.
pub(crate) fn devices(input: &SpecInput<'_>) -> Result<Devices, SpecError> {
    check_count("devices", input.container.devices.len(), MAX_DEVICES)?;
    let mut devices = Devices { nodes: Vec::new(), rules: Vec::new() };
    if input.container.security.privileged {
        let all = input.devices.all();
        let all = all.map_err(|source| SpecError::HostDevices { path: "/dev".into(), source })?;
        devices.nodes.extend(all.iter().map(|node| of_the_node(input, node)));
        devices.rules.push(rule(true, Some(LinuxDeviceType::A), None, None, "rwm"));
    } else {
        devices.rules = default_rules();
    }
    for device in &input.container.devices {
        add(&mut devices, input, device)?;
    }
    check_count("devices", devices.nodes.len(), MAX_DEVICES)?;
    Ok(devices)
}

/// A device that a privileged container gets unasked. To root of a user namespace it must not
/// belong: who owns a node may do everything with it, and who does not only what the node's own
/// users may. Without an owner it stays the host's.
fn of_the_node(input: &SpecInput<'_>, node: &DeviceNode) -> LinuxDevice {
    let mut device = to_spec(node, node.path.clone());
    if input.sandbox.security.namespaces.user.is_some() {
        device.set_uid(None).set_gid(None);
    }
    device
}

fn add(devices: &mut Devices, input: &SpecInput<'_>, device: &Device) -> Result<(), SpecError> {
    let Device { container_path, host_path, permissions } = device;
    check_device(device)?;
    let source = Path::new(host_path);
    let nodes = input.devices.at(source);
    let nodes = nodes.map_err(|error| not_there(host_path, error))?;
    if nodes.is_empty() {
        return Err(SpecError::NoDevice { host_path: shown(host_path) });
    }
    let target = if container_path.is_empty() { host_path } else { container_path };
    let target = PathBuf::from(clean_path(target));
    for node in nodes {
        let below = node.path.strip_prefix(source).unwrap_or(Path::new(""));
        let path = if below.as_os_str().is_empty() { target.clone() } else { target.join(below) };
        let made = to_spec(&node, path.clone());
        if !input.container.security.privileged {
            let access = if permissions.is_empty() { "rwm" } else { permissions };
            devices.rules.push(rule(
                true,
                Some(made.typ()),
                Some(made.major()),
                Some(made.minor()),
                access,
            ));
        }
        devices.nodes.retain(|known| *known.path() != path);
        devices.nodes.push(made);
    }
    Ok(())
}

fn check_device(device: &Device) -> Result<(), SpecError> {
    let Device { container_path, host_path, permissions } = device;
    let what = "path of a device";
    // Without a place of its own a device is where the node has it.
    let paths = [host_path].into_iter().chain(Some(container_path).filter(|p| !p.is_empty()));
    for path in paths {
        check_no_nul(what, path)?;
        if !path.starts_with('/') {
            return Err(SpecError::NotAbsolute { what, path: shown(path) });
        }
    }
    let good = permissions.len() <= 3 && permissions.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
    if !good {
        let (host_path, permissions) = (shown(host_path), shown(permissions));
        return Err(SpecError::DevicePermissions { host_path, permissions });
    }
    Ok(())
}

/// A path that does not exist is the request's mistake, not the node's.
fn not_there(host_path: &str, source: io::Error) -> SpecError {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            SpecError::NoDevice { host_path: shown(host_path) }
        }
        _ => SpecError::HostDevices { path: host_path.into(), source },
    }
}

fn to_spec(node: &DeviceNode, path: PathBuf) -> LinuxDevice {
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(if node.block { LinuxDeviceType::B } else { LinuxDeviceType::C })
        .major(i64::from(node.major))
        .minor(i64::from(node.minor))
        .file_mode(node.mode)
        .uid(node.uid)
        .gid(node.gid)
        .build()
        .expect("every field of a device has a default")
}

/// Nothing, then the nodes that every container has, and the making of any node: it is
/// opening that is guarded, and archives with nodes must unpack.
fn default_rules() -> Vec<LinuxDeviceCgroup> {
    const CHAR: Option<LinuxDeviceType> = Some(LinuxDeviceType::C);
    const BLOCK: Option<LinuxDeviceType> = Some(LinuxDeviceType::B);
    let mut rules = vec![
        rule(false, Some(LinuxDeviceType::A), None, None, "rwm"),
        rule(true, CHAR, None, None, "m"),
        rule(true, BLOCK, None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, console, ptmx, and the terminals.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, CHAR, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, CHAR, Some(136), None, "rwm"));
    rules
}

pub(crate) fn rule(
    allow: bool,
    typ: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(typ).set_major(major).set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_node_has_a_null_device() {
        let nodes = NodeDevices.at(Path::new("/dev/null")).unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].block, nodes[0].major, nodes[0].minor), (false, 1, 3));
    }

    #[test]
    fn directories_are_walked_and_what_is_no_device_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/file"), "").unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("a/link")).unwrap();
        assert_eq!(NodeDevices.at(dir.path()).unwrap(), []);
        assert_eq!(NodeDevices.at(&dir.path().join("a/file")).unwrap(), []);
        assert_eq!(NodeDevices.at(&dir.path().join("a/link")).unwrap()[0].minor, 3);
        assert!(NodeDevices.at(&dir.path().join("none")).is_err());
    }

    #[test]
    fn all_devices_are_the_nodes_own() {
        let all = NodeDevices.all().unwrap();
        assert!(all.iter().any(|node| node.path == Path::new("/dev/null")));
        assert!(!all.iter().any(|node| node.path.starts_with("/dev/pts")));
    }
}

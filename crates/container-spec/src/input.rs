//! What a spec is made of, and what comes out beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxSeccomp, PosixRlimit, Spec};
use types::{ContainerConfig, ContainerId, ImageConfig, Profile, SandboxConfig, SandboxId};

use crate::{HostDevices, ResolvedUser};

/// Everything that a container's spec is made of.
#[derive(Clone, Copy)]
pub struct SpecInput<'a> {
    /// The container.
    pub container_id: &'a ContainerId,
    /// Its sandbox.
    pub sandbox_id: &'a SandboxId,
    /// What the sandbox was asked for with; it passed [`crate::validate_sandbox`].
    pub sandbox: &'a SandboxConfig,
    /// What the container is asked for with. The `host_path` of an image's mount is where
    /// that image is mounted.
    pub container: &'a ContainerConfig,
    /// The image's configuration.
    pub image: &'a ImageConfig,
    /// The image's name, for those who read annotations.
    pub image_name: &'a str,
    /// Who it runs as: the result of [`crate::resolve_user`].
    pub user: &'a ResolvedUser,
    /// The pod's host name, or the node's on the node's network.
    pub hostname: &'a str,
    /// The root file system, absolute or relative to the bundle.
    pub rootfs: &'a Path,
    /// Where the directories of the image's volumes are to be.
    pub volumes_dir: &'a Path,
    /// Files of the sandbox.
    pub files: SandboxFiles<'a>,
    /// Namespaces of the sandbox.
    pub namespaces: Namespaces<'a>,
    /// The container's cgroup, in the form that the handler's driver takes.
    pub cgroups_path: &'a str,
    /// The version of the cgroups that limits are written to.
    pub cgroup_version: CgroupVersion,
    /// The runtime's own bounding set: names with `CAP_`.
    pub host_capabilities: &'a BTreeSet<String>,
    /// Seccomp.
    pub seccomp: SeccompInput<'a>,
    /// AppArmor.
    pub apparmor: AppArmorInput<'a>,
    /// The node's devices.
    pub devices: &'a dyn HostDevices,
    /// What the devices that the container names ask of it ([`cdi::resolve`]).
    pub cdi: &'a [cdi::Edits],
    /// Whether the handler runs hooks of all moments, and not only those before the start.
    pub runs_all_hooks: bool,
    /// The limits of a container that asks for none: as [`crate::default_rlimits`], or as
    /// configured.
    pub rlimits: &'a [PosixRlimit],
    /// Annotations beside our own. They must not come from the image.
    pub annotations: &'a BTreeMap<String, String>,
}

/// Files of a sandbox, mounted where the client mounts nothing. What is `None` is not
/// mounted.
#[derive(Debug, Clone, Copy, Default)]
pub struct SandboxFiles<'a> {
    /// For `/etc/hostname`.
    pub hostname: Option<&'a Path>,
    /// For `/etc/hosts`.
    pub hosts: Option<&'a Path>,
    /// For `/etc/resolv.conf`.
    pub resolv_conf: Option<&'a Path>,
    /// For `/dev/shm`: the pod's, or the node's. With `None` the container has its own.
    pub shm: Option<&'a Path>,
}

/// Namespaces of a sandbox: where they are pinned, or `None` for the node's.
#[derive(Debug, Clone, Copy)]
pub struct Namespaces<'a> {
    /// Network.
    pub network: Option<&'a Path>,
    /// System V IPC and message queues.
    pub ipc: Option<&'a Path>,
    /// Host name.
    pub uts: Option<&'a Path>,
    /// Users; where it is `None` the sandbox must not have asked for one.
    pub user: Option<&'a Path>,
    /// Processes.
    pub pid: PidNamespace<'a>,
}

/// The PID namespace in a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace<'a> {
    /// An entry without a path: a new one, or the one that the launcher decides on.
    New,
    /// No entry: the node's.
    Node,
    /// The one at this path.
    Join(&'a Path),
}

/// Which cgroups a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Version 1, also where a version 2 tree without controllers stands beside it.
    V1,
    /// Version 2.
    V2,
}

/// Seccomp's part.
#[derive(Debug, Clone, Copy)]
pub struct SeccompInput<'a> {
    /// What a container without a profile gets. A Localhost profile needs `localhost`.
    pub unset: &'a Profile,
    /// The profile that a Localhost name stands for, read by the caller
    /// ([`seccomp::read_profile`]).
    pub localhost: Option<&'a LinuxSeccomp>,
}

/// AppArmor's part.
#[derive(Debug, Clone, Copy)]
pub struct AppArmorInput<'a> {
    /// What a container without a profile gets.
    pub unset: &'a Profile,
    /// The name of the runtime's own profile, or `None` where AppArmor is not active or the
    /// profile not loaded.
    pub runtime_default: Option<&'a str>,
}

/// A spec, and what is to be done for it.
#[derive(Debug, Clone, PartialEq)]
pub struct BuiltSpec {
    /// The spec.
    pub spec: Spec,
    /// Volumes that the image declares and the client mounts nothing on. Each needs a
    /// directory with a copy of what the image has there.
    pub volumes: Vec<Volume>,
    /// Network devices of the node that move into the pod's network before the container starts.
    pub net_devices: Vec<NetDevice>,
}

/// A network device of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// What the node calls it.
    pub host_name: String,
    /// What the pod calls it.
    pub name: String,
}

/// A volume that an image declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The directory to be made; the spec mounts it.
    pub host_path: PathBuf,
    /// The place in the container: absolute and without `..`, but its components may be
    /// links of the image's. It must be opened below the root, never joined to it.
    pub container_path: String,
}

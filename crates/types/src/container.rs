//! What is asked of a container. Every field of the CRI's `ContainerConfig` has its place here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Capabilities, IdMapping, LinuxResources, NamespaceOptions, Profile, SelinuxOptions,
    SupplementalGroupsPolicy,
};

/// What names a container within its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// The container's name in the pod.
    pub name: String,
    /// How often it has been made before.
    pub attempt: u32,
}

/// `ImageSpec`: how a request names an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// The image's id or name.
    pub image: String,
    /// Given back byte for byte.
    pub annotations: BTreeMap<String, String>,
    /// What the pod's author wrote.
    pub user_specified_image: String,
    /// The handler whose image is meant, or empty.
    pub runtime_handler: String,
    /// The reference of the image that is used.
    pub image_ref: String,
}

/// What was asked for with CreateContainer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// The container's name.
    pub metadata: ContainerMetadata,
    /// Its image.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Replaces the image's working directory.
    pub working_dir: String,
    /// Name and value; values are bytes and need not be UTF-8.
    pub envs: Vec<(String, Vec<u8>)>,
    /// In the order asked for.
    pub mounts: Vec<Mount>,
    /// Devices of the node.
    pub devices: Vec<Device>,
    /// Given back byte for byte.
    pub labels: BTreeMap<String, String>,
    /// Given back byte for byte.
    pub annotations: BTreeMap<String, String>,
    /// The log file, relative to the sandbox's log directory, or empty for none.
    pub log_path: String,
    /// Whether standard input is kept open for attaching.
    pub stdin: bool,
    /// Whether standard input is closed after the first attached client.
    pub stdin_once: bool,
    /// Whether the container has a terminal.
    pub tty: bool,
    /// Fully qualified CDI device names.
    pub cdi_devices: Vec<String>,
    /// The signal that stops it, by number of Linux, or `None` for the image's.
    pub stop_signal: Option<i32>,
    /// Limits.
    pub resources: LinuxResources,
    /// Identity and privileges.
    pub security: ContainerSecurity,
}

/// How mounts made on one side are seen on the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all (`rprivate`).
    #[default]
    Private,
    /// The host's in the container (`rslave`).
    HostToContainer,
    /// Both ways (`rshared`).
    Bidirectional,
}

/// `Mount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// What of the host.
    pub host_path: String,
    /// Not writable in the container.
    pub readonly: bool,
    /// Whether the source gets the container's SELinux label.
    pub selinux_relabel: bool,
    /// How mounts spread.
    pub propagation: Propagation,
    /// Owners, for a source that is mapped.
    pub uid_mappings: Vec<IdMapping>,
    /// Groups, for a source that is mapped.
    pub gid_mappings: Vec<IdMapping>,
    /// Not writable below either.
    pub recursive_read_only: bool,
    /// The image that is mounted in place of a host path.
    pub image: Option<ImageSpec>,
    /// A path in that image.
    pub image_sub_path: String,
    /// Further options.
    pub mount_options: Vec<String>,
}

/// `Device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where in the container.
    pub container_path: String,
    /// What of the host: a node, or a directory of nodes.
    pub host_path: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// `LinuxContainerSecurityContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSecurity {
    /// Beside the default set.
    pub capabilities: Capabilities,
    /// All devices, all capabilities, no confinement.
    pub privileged: bool,
    /// Which namespaces.
    pub namespaces: NamespaceOptions,
    /// SELinux label.
    pub selinux: Option<SelinuxOptions>,
    /// A numeric user.
    pub run_as_user: Option<i64>,
    /// A user by name.
    pub run_as_username: String,
    /// A numeric group.
    pub run_as_group: Option<i64>,
    /// Whether the root is read-only.
    pub readonly_rootfs: bool,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// How further groups and the image's join.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// `None` is unconfined, unless configured otherwise.
    pub apparmor: Option<Profile>,
    /// `None` is unconfined, unless configured otherwise.
    pub seccomp: Option<Profile>,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Hidden paths.
    pub masked_paths: Vec<String>,
    /// Paths that are not writable.
    pub readonly_paths: Vec<String>,
}

//! What is asked of a sandbox. Every field of the CRI's `PodSandboxConfig` has its
//! place here; the API layer converts without leaving one out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    LinuxResources, NamespaceMode, PidMode, Profile, SelinuxOptions, SupplementalGroupsPolicy,
    UserNamespace,
};

/// What names a sandbox: the key of the runtime's name index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// The pod's name.
    pub name: String,
    /// The pod's UID.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// How often the pod's sandbox has been made before.
    pub attempt: u32,
}

/// What was asked for with RunPodSandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// The sandbox's name.
    pub metadata: SandboxMetadata,
    /// The host name, or empty for the node's (host network) or the pod's name.
    pub hostname: String,
    /// Where the logs of the containers go, or empty for none.
    pub log_directory: String,
    /// The resolver's settings, or `None` for the node's.
    pub dns: Option<DnsConfig>,
    /// Ports of the node that lead into the pod.
    pub port_mappings: Vec<PortMapping>,
    /// Given back byte for byte.
    pub labels: BTreeMap<String, String>,
    /// Given back byte for byte.
    pub annotations: BTreeMap<String, String>,
    /// The parent of the pod's cgroups, or empty for the runtime's own.
    pub cgroup_parent: String,
    /// Kernel settings of the sandbox's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// What the pod costs beside its containers, for information.
    pub overhead: Option<LinuxResources>,
    /// The sum of what its containers ask for, for information.
    pub resources: Option<LinuxResources>,
    /// Namespaces, identity and profiles of the sandbox.
    pub security: SandboxSecurity,
    /// The handler that a RuntimeClass named, or empty for the default.
    pub runtime_handler: String,
}

/// The resolver's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Addresses of servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// `options` of resolv.conf.
    pub options: Vec<String>,
}

/// Which of a pod's addresses is its IP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpPreference {
    /// The first of IPv4.
    #[default]
    Ipv4,
    /// The first of IPv6.
    Ipv6,
    /// The first that the plugins gave.
    Cni,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The transport.
    pub protocol: Protocol,
    /// The port inside the pod.
    pub container_port: u16,
    /// The port of the node; 0 means that none is mapped.
    pub host_port: u16,
    /// The address of the node, or empty for all.
    pub host_ip: String,
}

/// `LinuxSandboxSecurityContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSecurity {
    /// The namespaces that the pod's containers share.
    pub namespaces: NamespaceOptions,
    /// SELinux label.
    pub selinux: Option<SelinuxOptions>,
    /// The user of the sandbox's own processes.
    pub run_as_user: Option<i64>,
    /// The group of the sandbox's own processes.
    pub run_as_group: Option<i64>,
    /// Whether the sandbox's own root is read-only.
    pub readonly_rootfs: bool,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// How further groups and the image's join.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether the pod may hold privileged containers.
    pub privileged: bool,
    /// The seccomp profile of the sandbox's own processes.
    pub seccomp: Option<Profile>,
    /// The AppArmor profile of the sandbox's own processes.
    pub apparmor: Option<Profile>,
}

/// `NamespaceOption`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceOptions {
    /// The network's.
    pub network: NamespaceMode,
    /// Processes'.
    pub pid: PidMode,
    /// System V IPC's and POSIX message queues'.
    pub ipc: NamespaceMode,
    /// Users', or `None` for the node's.
    pub user: Option<UserNamespace>,
}

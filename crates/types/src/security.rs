//! Identity, privileges, namespaces and limits, as sandboxes and containers ask for them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whose namespace a pod uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// One of the pod's own, shared by its containers.
    #[default]
    Pod,
    /// The node's.
    Node,
}

/// Whose PID namespace a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// One of the pod's own, shared by its containers (the CRI's default value).
    #[default]
    Pod,
    /// One of its own.
    Container,
    /// The node's.
    Node,
    /// That of another container of the pod: its id, or a prefix of it.
    Target(String),
}

/// A pod's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids, container to host.
    pub uids: Vec<IdMapping>,
    /// Group ids, container to host.
    pub gids: Vec<IdMapping>,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// The first id on the host.
    pub host_id: u32,
    /// The first id in the container.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

impl IdMapping {
    fn host_id_of(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.container_id).filter(|offset| *offset < self.length)?;
        self.host_id.checked_add(offset)
    }
}

impl UserNamespace {
    /// The host's number of a user of the container, unless it is not mapped.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        self.uids.iter().find_map(|mapping| mapping.host_id_of(uid))
    }

    /// The host's number of a group of the container, unless it is not mapped.
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        self.gids.iter().find_map(|mapping| mapping.host_id_of(gid))
    }
}

/// How the groups that a request lists and those of the image's `/etc/group` join.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// Both.
    #[default]
    Merge,
    /// Only those that the request lists.
    Strict,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One of the node's: a file (seccomp) or a loaded profile's name (AppArmor).
    Localhost(String),
}

/// `SELinuxOption`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelinuxOptions {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub type_: String,
    /// Level.
    pub level: String,
}

/// `Capability`: names without or with `CAP_`, or `ALL`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Added to the default set.
    pub add: Vec<String>,
    /// Taken from it.
    pub drop: Vec<String>,
    /// Added, and made ambient.
    pub add_ambient: Vec<String>,
}

/// `LinuxContainerResources`. Zero means "not set", as on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxResources {
    /// CFS period, in microseconds.
    pub cpu_period_us: i64,
    /// CFS quota, in microseconds a period.
    pub cpu_quota_us: i64,
    /// CPU shares, relative (cgroup v1's scale: 2 to 262144).
    pub cpu_shares: i64,
    /// Memory limit, in bytes.
    pub memory_limit_bytes: i64,
    /// `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: i64,
    /// CPUs, as a list: `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes, as a list.
    pub cpuset_mems: String,
    /// Limits of huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup v2 files and their values.
    pub unified: BTreeMap<String, String>,
    /// Memory and swap together, in bytes.
    pub memory_swap_limit_bytes: i64,
}

/// A limit of huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`, …
    pub page_size: String,
    /// In bytes.
    pub limit_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_within_their_ranges() {
        let mapping = |container_id, host_id, length| IdMapping { host_id, container_id, length };
        let user = UserNamespace {
            uids: vec![mapping(0, 100_000, 10), mapping(10, 500, 5)],
            gids: vec![mapping(1, u32::MAX - 1, 10)],
        };
        let uids = [0, 9, 10, 14, 15].map(|id| user.host_uid(id));
        assert_eq!(uids, [Some(100_000), Some(100_009), Some(500), Some(504), None]);
        assert_eq!(
            [0, 1, 2, 3].map(|id| user.host_gid(id)),
            [None, Some(u32::MAX - 1), Some(u32::MAX), None]
        );
    }
}

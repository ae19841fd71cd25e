//! What is kept of a sandbox and of a container: on disk, and as what List and
//! Status answer from.
//!
//! ```text
//!   sandbox:    Creating ──► Ready ──► NotReady ──► Removing ──► (gone)
//!                  └────────────────────────────────────▲
//!   container:  Created ──► Starting ──► Running ──► Exited ──► Removing ──► (gone)
//!                  │            └───────────────────────▲▲          ▲
//!                  └────────────────────────────────────┘└─ Unknown ┘
//! ```
//!
//! A sandbox in `Creating` is not listed: the kubelet would stop it and ask for
//! the next attempt. After a crash it is rolled back. `Starting` is on disk before
//! the monitor is told to start, so that a process starts at most once.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use types::{
    ContainerConfig, ContainerId, DiffId, ImageId, LinuxResources, SandboxConfig, SandboxId,
};

/// How far a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxPhase {
    /// Being made; not listed.
    Creating,
    /// Its namespaces, network and monitor are there.
    Ready,
    /// Stopped, or something that it needs has died.
    NotReady,
    /// Being taken away; what remains of it is listed as not ready.
    Removing,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its id.
    pub id: SandboxId,
    /// What was asked for.
    pub config: SandboxConfig,
    /// When it was made, in nanoseconds since 1970; later than any sandbox before it.
    pub created_at_ns: i64,
    /// How far it is.
    pub phase: SandboxPhase,
    /// The boot that its processes, mounts and namespaces belong to.
    pub boot_id: String,
    /// Where its network namespace is pinned, unless it uses the node's.
    pub netns: Option<PathBuf>,
    /// Whether the network may hold something for it: written before the network
    /// is asked, and cleared once it has taken everything back.
    pub network_owed: bool,
    /// What the network gave it.
    pub attachment: Option<network::Attachment>,
    /// The cgroup that its containers' are children of.
    pub cgroup_parent: String,
    /// Whether that cgroup is ours to remove.
    pub owns_cgroup_parent: bool,
    /// The limits of that cgroup that were set because UpdatePodSandboxResources asked for them.
    #[serde(default)]
    pub limits: LinuxResources,
    /// Its own process, in its namespaces and in a cgroup named by its id, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<i32>,
    /// Why it is listed though its record could not be read, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub damage: String,
}

impl SandboxRecord {
    /// Whether it may run containers.
    pub fn is_ready(&self) -> bool {
        self.phase == SandboxPhase::Ready
    }

    /// Its own process, where that lives as far as is known.
    pub fn live_process(&self) -> Option<i32> {
        match self.phase {
            SandboxPhase::Creating | SandboxPhase::Ready => self.process,
            SandboxPhase::NotReady | SandboxPhase::Removing => None,
        }
    }

    /// Whether it has a network namespace of its own.
    pub fn own_network(&self) -> bool {
        self.config.security.namespaces.network == types::NamespaceMode::Pod
    }

    /// Its addresses, the primary first; none on the node's network.
    pub fn ips(&self) -> &[IpAddr] {
        self.attachment.as_ref().map_or(&[], |a| &a.ips)
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The code: of `exit(2)`, or 128 and the signal's number.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When, in nanoseconds since 1970; not before it was started.
    pub finished_at_ns: i64,
}

/// How far a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// About to run; never found after a call has returned.
    Starting,
    /// Its first process runs.
    Running {
        /// The process, as the host numbers it.
        pid: i32,
    },
    /// Its first process has ended, or could not be started.
    Exited(Exit),
    /// Its record could not be read, or nothing tells what became of it.
    Unknown,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its id.
    pub id: ContainerId,
    /// The sandbox that it belongs to.
    pub sandbox_id: SandboxId,
    /// What was asked for.
    pub config: ContainerConfig,
    /// The image that it was made of.
    pub image: ImageRef,
    /// When it was made, in nanoseconds since 1970.
    pub created_at_ns: i64,
    /// When it was started, or 0.
    pub started_at_ns: i64,
    /// How far it is.
    pub state: ContainerState,
    /// Its log file on the host, or empty for none.
    pub log_path: String,
    /// Who its first process is.
    pub user: User,
    /// The signal that stops it.
    pub stop_signal: i32,
    /// Its cgroup.
    pub cgroup: String,
    /// The images that it mounts, by the number of the mount.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volume_images: BTreeMap<usize, ImageId>,
    /// Network devices of the node that it is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub net_devices: Vec<network::NodeDevice>,
    /// Whether a removal has begun; it is then only to be removed.
    pub removing: bool,
    /// Why it is listed though its record could not be read, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub damage: String,
}

impl ContainerRecord {
    /// Whether a process of it may exist.
    pub fn may_run(&self) -> bool {
        matches!(self.state, ContainerState::Starting | ContainerState::Running { .. })
    }
}

/// The image of a container, as it was when the container was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// Its id.
    pub id: ImageId,
    /// The repository digest where there is one, else the id: `ContainerStatus.image_ref`.
    pub reference: String,
    /// The name to show: the first tag, or what was asked for.
    pub name: String,
    /// Its layers, the lowest first.
    pub layers: Vec<DiffId>,
}

/// Who a container's first process is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

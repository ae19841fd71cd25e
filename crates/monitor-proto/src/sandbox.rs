//! Making what the containers of a pod share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use types::{SandboxId, UserNamespace};

use crate::CgroupPlacement;

/// Makes and pins namespaces, and starts the reaper. Asked again with the same content it gives
/// the same answer; with another content it is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeSandbox {
    /// The sandbox; it must be the monitor's.
    pub sandbox: SandboxId,
    /// A new user namespace, which owns the others, or `None` for the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Box<UserRequest>>,
    /// Whether the namespaces are made and pinned already, where the paths below say; see
    /// [`crate::Features::GIVEN_NAMESPACES`]. For sandboxes without `user`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given: bool,
    /// Where to pin a new network namespace, or `None` for the node's.
    #[serde(default)]
    pub net: Option<PathBuf>,
    /// Where to pin a new IPC namespace, or `None` for the node's.
    #[serde(default)]
    pub ipc: Option<PathBuf>,
    /// Where to pin a new UTS namespace, or `None` for the node's.
    #[serde(default)]
    pub uts: Option<PathBuf>,
    /// The host name of the new UTS namespace.
    #[serde(default)]
    pub hostname: String,
    /// Kernel parameters of the new namespaces.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// A PID namespace of the pod with a reaper in it, or `None` for neither, or for both later.
    #[serde(default)]
    pub reaper: Option<ReaperRequest>,
}

/// A user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRequest {
    /// Where to pin it.
    pub pin: PathBuf,
    /// Its ids.
    pub mappings: UserNamespace,
}

/// The first process of the pod's PID namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaperRequest {
    /// Its cgroups.
    #[serde(default)]
    pub cgroup: CgroupPlacement,
}

/// The answer to [`MakeSandbox`], and to [`crate::Op::StartReaper`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxMade {
    /// The reaper's process, where one was asked for.
    #[serde(default)]
    pub reaper_pid: Option<i32>,
}

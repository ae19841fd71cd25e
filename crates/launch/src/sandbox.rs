//! The namespaces of a sandbox and the first process of its PID namespace.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::{LaunchError, Placement};

/// Namespaces to be made; each is pinned at the path given for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxNamespaces {
    /// Where to pin a new network namespace.
    pub net: Option<PathBuf>,
    /// Where to pin a new IPC namespace.
    pub ipc: Option<PathBuf>,
    /// Where to pin a new UTS namespace.
    pub uts: Option<PathBuf>,
    /// The host name of the new UTS namespace; the parent's is kept when this is empty.
    pub hostname: String,
    /// Kernel parameters, with dots or slashes, of the new namespaces only.
    pub sysctls: BTreeMap<String, String>,
}

/// Open handles of the namespaces that were made.
#[derive(Debug, Default)]
pub struct NamespaceHandles {
    /// The network namespace.
    pub net: Option<OwnedFd>,
    /// The IPC namespace.
    pub ipc: Option<OwnedFd>,
    /// The UTS namespace.
    pub uts: Option<OwnedFd>,
}

/// The first process of a pod's PID namespace, to be started.
#[derive(Debug, Default)]
pub struct ReaperLaunch<'a> {
    /// Namespaces (network, IPC, UTS) that it joins.
    pub namespaces: Vec<BorrowedFd<'a>>,
    /// The cgroups to be in.
    pub cgroup: Placement<'a>,
}

/// A running reaper.
#[derive(Debug)]
pub struct Reaper {
    /// The process, as the caller's PID namespace numbers it.
    pub pid: Pid,
    /// Its handle.
    pub pidfd: OwnedFd,
    /// The PID namespace that lives as long as it, for [`crate::PidNamespace::Join`].
    pub pidns: OwnedFd,
}

/// Makes and pins the namespaces of a sandbox.
///
/// # Errors
/// Where it fails nothing is left pinned.
pub fn make_sandbox_namespaces(
    _wanted: &SandboxNamespaces,
) -> Result<NamespaceHandles, LaunchError> {
    Err(LaunchError::ChildDied)
}

/// Takes a pinned namespace away; one that is gone already is no error.
///
/// # Errors
/// When the pin is still there afterwards.
pub fn unpin(_path: &Path) -> Result<(), LaunchError> {
    Err(LaunchError::ChildDied)
}

/// Starts the process that is PID 1 of a pod's PID namespace and reaps its orphans for ever.
///
/// It holds no descriptor, no capability and no way to a file; only SIGKILL ends it.
///
/// # Errors
/// Where it fails no process is left.
pub fn start_reaper(_launch: &ReaperLaunch<'_>) -> Result<Reaper, LaunchError> {
    Err(LaunchError::ChildDied)
}

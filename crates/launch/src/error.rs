//! Why a launch failed, told by the step that failed.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The steps of a launch, as failures name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Entering a cgroup.
    Cgroup,
    /// Reading the spec, or something in it that cannot be done.
    Spec,
    /// Joining or making a namespace.
    Namespace,
    /// Mounting the root file system.
    Rootfs,
    /// Mounting an entry of the spec.
    Mount,
    /// Making a device node.
    Device,
    /// Hiding a path.
    MaskedPath,
    /// Making a path read-only.
    ReadonlyPath,
    /// Setting a kernel parameter.
    Sysctl,
    /// Setting the host or domain name.
    Hostname,
    /// Running a hook.
    Hook,
    /// Changing to the new root.
    Pivot,
    /// Making the terminal.
    Console,
    /// Arranging descriptors.
    Stdio,
    /// Entering the working directory.
    Cwd,
    /// Setting resource limits, the OOM score or the scheduling.
    Limits,
    /// Changing user, groups or capabilities.
    Credentials,
    /// Compiling or loading the system call filter.
    Seccomp,
    /// Setting the security module's label.
    Label,
    /// Finding or executing the command.
    Exec,
}

/// What the child reported before it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildFailure {
    /// The step that failed.
    pub step: Step,
    /// What it failed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The kernel's error number, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// One line that says which step failed, on what, and why.
    pub message: String,
}

impl fmt::Display for ChildFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A launch that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The child could not do a step.
    #[error("{0}")]
    Child(ChildFailure),
    /// The child ended without a word: killed while it was being set up.
    #[error("the process ended while it was being set up")]
    ChildDied,
    /// The child's message is not one of ours.
    #[error("the process being set up sent a malformed message")]
    Message(#[source] serde_json::Error),
    /// No channel to the child.
    #[error("failed to make the channel to the new process")]
    Channel(#[source] io::Error),
    /// The child's channel failed.
    #[error("failed to read from the process being set up")]
    Status(#[source] io::Error),
    /// The PID namespace could not be selected for the child.
    #[error("failed to join the pid namespace")]
    JoinPid(#[source] io::Error),
    /// The caller could not select its own PID namespace again: no child may be started.
    #[error("failed to return to the own pid namespace")]
    RestorePid(#[source] io::Error),
    /// clone3 failed.
    #[error("failed to clone the new process")]
    Clone(#[source] io::Error),
    /// The PID namespace to join has no first process any more.
    #[error("the pid namespace to join has ended")]
    PidNamespaceEnded(#[source] io::Error),
    /// A namespace handle could not be opened.
    #[error("failed to open the {kind} namespace of process {pid}")]
    OpenNamespace {
        /// `net`, `ipc`, `uts`, `pid` or `user`.
        kind: &'static str,
        /// The process.
        pid: i32,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no thread to make namespaces in.
    #[error("failed to run a thread")]
    Thread(#[source] io::Error),
    /// A pinned namespace could not be opened.
    #[error("failed to open the namespace at {path}")]
    OpenPin {
        /// Where it should be pinned.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The ids of a user namespace could not be settled.
    #[error("failed to write the {file} of a user namespace")]
    MapIds {
        /// `uid_map` or `gid_map`.
        file: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A namespace could not be pinned.
    #[error("failed to pin a namespace at {path}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A pin could not be taken away.
    #[error("failed to remove the pinned namespace {path}")]
    Unpin {
        /// The pin.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

//! Running a further process in a container.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use types::ContainerId;

/// Starts a process in a running container. Answered with [`ExecStarted`] when it executes; its
/// end is a [`crate::Notice::ExecExited`] on the connection that asked.
///
/// Descriptors that go with it, in this order: the OCI process as JSON (a file, read from its
/// start), then those of standard input, output and error that are announced here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The container.
    pub container: ContainerId,
    /// The session.
    pub exec: ExecId,
    /// How long it may run; `None` is for ever. When it is over all of it is killed.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Whether it has a terminal; its master then comes back with the answer, and no standard
    /// stream is announced.
    #[serde(default)]
    pub tty: bool,
    /// Whether a descriptor for standard input goes with it.
    #[serde(default)]
    pub stdin: bool,
    /// Whether a descriptor for standard output goes with it.
    #[serde(default)]
    pub stdout: bool,
    /// Whether a descriptor for standard error goes with it.
    #[serde(default)]
    pub stderr: bool,
    /// Its cgroups.
    #[serde(default)]
    pub cgroup: ExecCgroup,
    /// Whether it goes on when the connection that asked for it ends; otherwise it is killed then.
    #[serde(default)]
    pub outlives_connection: bool,
}

/// The cgroups of an exec session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecCgroup {
    /// `cgroup.procs` files of the container, one a hierarchy, without that of `dir`.
    #[serde(default)]
    pub procs_files: Vec<PathBuf>,
    /// A directory below the container's cgroup that the monitor makes for this session alone,
    /// kills by, and removes.
    #[serde(default)]
    pub dir: Option<PathBuf>,
}

/// The answer to [`Exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// The process.
    pub pid: i32,
    /// What was clamped to what the machine allows.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// The most characters of an [`ExecId`].
const EXEC_ID_MAX: usize = 64;

/// An exec session: up to 64 hexadecimal digits, fit for a cgroup's name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecId(Box<str>);

/// A text that is no [`ExecId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an exec session's id is 1 to 64 hexadecimal digits")]
pub struct InvalidExecId;

impl ExecId {
    /// Makes a new id from the kernel's random source.
    pub fn random() -> Self {
        let text = types::ContainerId::random();
        Self(text.as_str()[..EXEC_ID_MAX / 2].into())
    }

    /// Returns the digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ExecId {
    type Error = InvalidExecId;

    fn try_from(text: String) -> Result<Self, InvalidExecId> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits && (1..=EXEC_ID_MAX).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidExecId)
        }
    }
}

impl From<ExecId> for String {
    fn from(id: ExecId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

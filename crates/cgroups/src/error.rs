//! What can go wrong with a cgroup.

use std::{io, path::PathBuf};

/// A step on a cgroup that failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    /// The systemd driver where it cannot be.
    #[error("the systemd driver needs systemd as first process and cgroup v2 alone")]
    NoSystemd,
    /// systemd refused or did not answer.
    #[error("failed to {action} {unit}")]
    Systemd {
        /// The step.
        action: &'static str,
        /// The unit.
        unit: String,
        /// The cause.
        #[source]
        source: Box<zbus::Error>,
    },
    /// A job of systemd's that failed.
    #[error("failed to {action} {unit}: systemd's job ended as \"{result}\"")]
    Job {
        /// The step.
        action: &'static str,
        /// The unit.
        unit: String,
        /// What systemd says.
        result: String,
    },
    /// A unit that neither starts nor takes a process.
    #[error("unit {unit} is being started or stopped all the time")]
    UnitPasses {
        /// The unit.
        unit: String,
    },
    /// A path that no cgroup may have.
    #[error("bad cgroup path \"{path}\": {reason}")]
    BadPath {
        /// The path, cut for logs.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A parent in the other driver's form.
    #[error(
        "cgroup parent \"{parent}\" is in the form of the {other} driver, but this runtime uses the {driver} driver"
    )]
    WrongDriver {
        /// The parent.
        parent: String,
        /// The driver in use.
        driver: &'static str,
        /// The driver that has such parents.
        other: &'static str,
    },
    /// A value that no limit may have.
    #[error("bad value \"{value}\" for {limit}")]
    BadValue {
        /// The limit.
        limit: String,
        /// The value.
        value: String,
    },
    /// A file or directory of a cgroup.
    #[error("failed to {action} {path}")]
    Io {
        /// The step.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A limit that the kernel refused.
    #[error("failed to set {path} to \"{value}\"")]
    Limit {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The device program was refused.
    #[error("failed to {action} the device rules of {path}")]
    Devices {
        /// The step.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Processes are still there.
    #[error("cgroup {path} still has processes after {waited_ms} ms")]
    Busy {
        /// The cgroup.
        path: PathBuf,
        /// How long was waited.
        waited_ms: u64,
    },
    /// Not frozen in time.
    #[error("cgroup {path} is not frozen after {waited_ms} ms")]
    NotFrozen {
        /// The cgroup.
        path: PathBuf,
        /// How long was waited.
        waited_ms: u64,
    },
}

impl CgroupError {
    /// Tells whether the cgroup, or one above it, was not there.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Limit { source, .. } | Self::Devices { source, .. } => {
                crate::files::is_gone(source)
            }
            _ => false,
        }
    }
}

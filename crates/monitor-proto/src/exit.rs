//! How a container ended, as it is told and as it is on disk.

use serde::{Deserialize, Serialize};
use types::ContainerId;

/// The version of [`ExitRecord`] that this build writes.
pub const EXIT_RECORD_VERSION: u32 = 1;

/// The largest file that is read as an exit record.
pub const MAX_EXIT_RECORD: usize = 4096;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether its first process was killed for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When, in nanoseconds since 1970.
    pub finished_at_ns: i64,
}

/// The file `exits/ID` of a sandbox's state directory.
///
/// Written by the monitor before it reaps the process, removed by it when the daemon has
/// acknowledged the exit. It outlives the monitor, not a power cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`EXIT_RECORD_VERSION`].
    pub version: u32,
    /// The container.
    pub container: ContainerId,
    /// Its first process.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
}

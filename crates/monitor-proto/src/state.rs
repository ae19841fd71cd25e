//! What a monitor knows.

use serde::{Deserialize, Serialize};
use types::ContainerId;

use crate::{Exit, MakeSandbox};

/// The answer to [`crate::Op::State`]: as many containers as fit in a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatePage {
    /// What was made of the sandbox, or `None` when nothing was yet.
    #[serde(default)]
    pub made: Option<MakeSandbox>,
    /// The reaper, where one was started.
    #[serde(default)]
    pub reaper: Option<ReaperState>,
    /// Containers, by id.
    pub containers: Vec<ContainerState>,
    /// Whether there are more after the last one.
    #[serde(default)]
    pub more: bool,
}

/// The reaper of a pod's PID namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaperState {
    /// Its process.
    pub pid: i32,
    /// Whether it lives. The PID namespace lives as long as it does.
    pub alive: bool,
}

/// A container that a monitor knows: from its start until its exit is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The container.
    pub id: ContainerId,
    /// Its first process.
    pub pid: i32,
    /// The process' start time in clock ticks since boot; 0 while it starts.
    pub start_time: u64,
    /// When the command executed, in nanoseconds since 1970; 0 while it starts.
    pub started_at_ns: i64,
    /// Where it stands.
    pub phase: ContainerPhase,
    /// How many exec sessions run in it.
    #[serde(default)]
    pub execs: usize,
    /// How many bytes of its output never reached its log.
    #[serde(default)]
    pub log_bytes_dropped: u64,
}

/// Where a container stands.
///
/// ```text
/// Starting ──▶ Running ──▶ Exited ──(acknowledged)──▶ forgotten
///     └──(failed)──▶ forgotten
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPhase {
    /// It is being set up.
    Starting,
    /// Its command executes, or its last output is still being written.
    Running,
    /// It ended, and its log is complete.
    Exited(Exit),
}

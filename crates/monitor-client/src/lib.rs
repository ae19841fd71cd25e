//! Starts, finds and talks to the monitors of pods, for the daemon.
//!
//! ```text
//! Monitors ── spawn / adopt ──▶ Monitor ── typed calls with deadlines ──▶ corten-monitor
//!                                  └────▶ Events: notices, and the end of the connection
//! ```
//!
//! What must never happen: a call that waits for ever for a monitor that hangs; a monitor that
//! hangs and delays the calls of another pod; a process that is believed to be the monitor
//! because of its number or because of the path of its socket.
//!
//! Called by the core, one [`Monitor`] a pod.
#![forbid(unsafe_code)]

mod attach;
mod calls;
mod connection;
mod error;
mod exec_sync;
mod exits;
mod monitor;
mod program;
mod reader;
mod spawn;
mod watch;

pub use attach::{AttachSession, Attached};
pub use error::MonitorError;
pub use exec_sync::{ExecEnd, ExecOutput, ExecSession, ExecSync};
pub use exits::{ExitRecords, UnreadableExit, read_exit_records, remove_exit_record};
pub use monitor::{
    DEFAULT_DEADLINE, Event, Events, Monitor, MonitorState, Monitors, START_DEADLINE,
};
pub use program::MonitorProgram;

pub use monitor_proto::{
    AttachEnd, CgroupPlacement, ContainerPhase, ContainerPid, ContainerState, Exec, ExecCgroup,
    ExecId, ExecStarted, Exit, ExitRecord, Failure, FailureKind, Features, KillCgroup, LogTarget,
    MakeSandbox, Notice, OomFile, OomFileKind, Program, ReaperRequest, ReaperState, Rootfs,
    SandboxMade, StartContainer, Started, UserRequest,
};

//! What can go wrong between the daemon and a monitor.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use monitor_proto::{Failure, FrameError};
use types::SandboxId;

/// A call to a monitor that failed.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The monitor's program cannot be read or copied.
    #[error("failed to load the monitor's program {path}")]
    Program {
        /// The program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The state directory cannot be prepared.
    #[error("failed to prepare {path} for the monitor of sandbox {sandbox}")]
    StateDir {
        /// The sandbox.
        sandbox: SandboxId,
        /// What could not be made.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A monitor listens there already.
    #[error("a monitor of sandbox {sandbox} runs already")]
    RunsAlready {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// The process cannot be started.
    #[error("failed to start the monitor of sandbox {sandbox}")]
    Spawn {
        /// The sandbox.
        sandbox: SandboxId,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The process cannot be put in its cgroup.
    #[error("failed to place the monitor of sandbox {sandbox} in {path}")]
    Place {
        /// The sandbox.
        sandbox: SandboxId,
        /// The `cgroup.procs` file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Nothing listens there: there is no monitor.
    #[error("no monitor of sandbox {sandbox} runs")]
    NotRunning {
        /// The sandbox.
        sandbox: SandboxId,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket cannot be used.
    #[error("failed to connect to the monitor of sandbox {sandbox}")]
    Connect {
        /// The sandbox.
        sandbox: SandboxId,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another user's process listens there.
    #[error("the monitor's socket of sandbox {sandbox} belongs to user {uid}")]
    Peer {
        /// The sandbox.
        sandbox: SandboxId,
        /// The user.
        uid: u32,
    },
    /// It says that it serves another sandbox, or something that makes no sense.
    #[error("what answers as the monitor of sandbox {sandbox} is not it: {reason}")]
    Stranger {
        /// The sandbox.
        sandbox: SandboxId,
        /// What it said.
        reason: String,
    },
    /// It did not answer in time. It may still do what was asked.
    #[error("the monitor of sandbox {sandbox} did not answer {operation} within {deadline:?}")]
    Deadline {
        /// The sandbox.
        sandbox: SandboxId,
        /// What was asked.
        operation: &'static str,
        /// The time that it had.
        deadline: Duration,
    },
    /// It is dead, or it closed the connection.
    #[error("the monitor of sandbox {sandbox} is gone")]
    Gone {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// It refused, or what was asked failed.
    #[error("{failure}")]
    Refused {
        /// What it said.
        failure: Failure,
    },
    /// The request cannot be sent.
    #[error("failed to send {operation} to the monitor of sandbox {sandbox}")]
    Send {
        /// The sandbox.
        sandbox: SandboxId,
        /// What was asked.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The request is too long.
    #[error("{operation} for the monitor of sandbox {sandbox} does not fit in a frame")]
    Frame {
        /// The sandbox.
        sandbox: SandboxId,
        /// What was asked.
        operation: &'static str,
        /// The cause.
        #[source]
        source: FrameError,
    },
    /// Pipes or memory for an exec session cannot be had.
    #[error("failed to prepare the streams of an exec session in sandbox {sandbox}")]
    ExecStreams {
        /// The sandbox.
        sandbox: SandboxId,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The monitor cannot be killed.
    #[error("failed to kill the monitor of sandbox {sandbox}")]
    Kill {
        /// The sandbox.
        sandbox: SandboxId,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl MonitorError {
    /// The monitor's own failure, where it gave one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused { failure } => Some(failure),
            _ => None,
        }
    }

    /// Whether no monitor is there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::NotRunning { .. })
    }

    /// Whether the monitor had its time and did not answer.
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}

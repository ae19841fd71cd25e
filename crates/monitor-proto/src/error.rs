//! Why a request or a frame was refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What sort of failure.
    pub kind: FailureKind,
    /// One line that says which step failed, on what, and why.
    pub message: String,
    /// The step of a launch, by the launch crate's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What the step failed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The kernel's error number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

impl Failure {
    /// A failure with nothing but its kind and its text.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), step: None, path: None, errno: None }
    }
}

/// The sort of a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No common version.
    Version,
    /// The request makes no sense, or its descriptors are not there.
    Invalid,
    /// The request is not known, or belongs to a feature that this monitor lacks.
    Unsupported,
    /// No such container or exec session.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// The container does not run.
    NotRunning,
    /// A container lives.
    Busy,
    /// A limit of the monitor, of descriptors or of processes is reached.
    Exhausted,
    /// The launch failed in a step of the container's own set-up.
    Launch,
    /// The log file could not be opened.
    Log,
    /// The kernel refused.
    Kernel,
    /// A kind that this build does not know.
    #[serde(other)]
    Unknown,
}

/// A frame that is none.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It does not fit.
    #[error("a frame of {length} bytes exceeds the limit of {}", crate::MAX_FRAME)]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// It cannot be written as JSON.
    #[error("a frame cannot be written")]
    Encode(#[source] serde_json::Error),
    /// It is not what was expected.
    #[error("a frame cannot be read")]
    Decode(#[source] serde_json::Error),
}

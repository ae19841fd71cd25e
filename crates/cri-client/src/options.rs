//! How long to wait and how much to accept.

use std::time::Duration;

/// The default for calls that only read, and for dialling: crictl's.
const DEFAULT_READ: Duration = Duration::from_secs(2);

/// The default for calls that change something: the kubelet's.
const DEFAULT_CHANGE: Duration = Duration::from_secs(120);

/// The largest message accepted, as the kubelet's client has it.
const MAX_RECEIVE_BYTES: usize = 16 * 1024 * 1024;

/// Time limits of calls.
///
/// Calls that wait for something by their meaning get more, as the kubelet
/// gives it: `RunPodSandbox` twice the change limit, `StopContainer` its grace
/// period on top, `ExecSync` its own timeout on top (none when that is 0),
/// `PullImage` and event streams none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For dialling and for calls that only read.
    pub read: Duration,
    /// For calls that change something.
    pub change: Duration,
}

impl Timeouts {
    /// One limit for all calls.
    #[must_use]
    pub const fn all(limit: Duration) -> Self {
        Self { read: limit, change: limit }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { read: DEFAULT_READ, change: DEFAULT_CHANGE }
    }
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Time limits.
    pub timeouts: Timeouts,
    /// The largest message accepted, in bytes.
    pub max_receive_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeouts: Timeouts::default(), max_receive_bytes: MAX_RECEIVE_BYTES }
    }
}

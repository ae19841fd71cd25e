//! Agreement on a version.

use serde::{Deserialize, Serialize};
use types::SandboxId;

/// The newest protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The oldest protocol that this build speaks.
pub const PROTOCOL_VERSION_MIN: u32 = 1;

/// What a peer can do beyond the version's minimum; unknown bits are kept and ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Features(pub u64);

impl Features {
    /// Clients can attach to a container's standard streams.
    pub const ATTACH: Self = Self(1);
    /// The daemon can get duplicates of a container's pipe ends, to carry on when the monitor dies.
    pub const PIPE_DUPLICATES: Self = Self(1 << 1);
    /// Containers can be made by a runtime program.
    pub const PROGRAMS: Self = Self(1 << 2);
    /// A runtime program finds owners mapped that are to be.
    pub const MAPPED_PROGRAMS: Self = Self(1 << 3);
    /// The reaper can be started after the namespaces were made.
    pub const LATE_REAPER: Self = Self(1 << 4);
    /// The daemon can make the namespaces itself.
    pub const GIVEN_NAMESPACES: Self = Self(1 << 5);

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The first request of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version that the daemon speaks.
    pub min_version: u32,
    /// The newest version that the daemon speaks.
    pub max_version: u32,
    /// What the daemon can do.
    #[serde(default)]
    pub features: Features,
    /// The daemon's release, for the monitor's log.
    #[serde(default)]
    pub release: String,
}

/// The monitor's answer; a pidfd of the monitor goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The version spoken from here on.
    pub version: u32,
    /// What the monitor can do.
    #[serde(default)]
    pub features: Features,
    /// The sandbox that it serves.
    pub sandbox: SandboxId,
    /// Its process.
    pub pid: i32,
    /// Its release.
    #[serde(default)]
    pub release: String,
}

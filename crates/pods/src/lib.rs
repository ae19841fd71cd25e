//! Sandboxes and containers: their states, their owners, their recovery.
//!
//! Each pod has one task that owns its sandbox and its containers ([`task`]);
//! calls, exits and timers reach it as messages. What List and Status answer from
//! is published by the tasks into an index in memory. Records on disk are written
//! before what they stand for is done, so that after a crash at any step the
//! work is completed or undone ([`Pods::recover`]).
//!
//! Called by the API layer; calls images, snapshots, the network, cgroups and
//! monitors, and knows nothing of the wire.
#![forbid(unsafe_code)]

mod apparmor;
mod census;
mod clock;
mod container;
mod ending;
mod error;
mod events;
mod exec;
mod files;
mod filters;
mod handlers;
mod image_volumes;
mod index;
mod interactive;
mod limits;
mod log;
mod names;
mod namespaces;
mod parents;
mod record;
mod recover;
mod relabel;
mod retire;
mod run;
mod selinux;
mod service;
mod spec;
mod task;
mod update;
mod update_sandbox;
mod volumes;

pub use census::{Census, HandlerCensus, Turnover};
pub use cgroups::Driver as CgroupDriver;
pub use error::{Error, Result};
pub use events::{EventFeed, EventFigures, EventKind, PodEvent};
pub use exec::ExecOutput;
pub use handlers::{Handler, HandlerFeatures};
pub use index::{ContainerFilter, Known, SandboxFilter, StateKind};
pub use interactive::{RunningAttach, RunningExec, StreamEnds, StreamsWanted};
pub use limits::container_rlimits;
pub use record::{
    ContainerRecord, ContainerState, Exit, ImageRef, SandboxPhase, SandboxRecord, User,
};
pub use recover::{Leaks, Recovered};
pub use service::{Options, Pods, Services};
pub use spec::supports_recursive_read_only;
pub use update_sandbox::PodResources;

/// The name of the native runtime handler, also reached by an empty name.
pub const DEFAULT_HANDLER: &str = "corten";

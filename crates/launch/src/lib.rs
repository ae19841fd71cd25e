//! Turns an OCI bundle into a running process, without executing a runtime program.
//!
//! ```text
//! start_container ─ clone3 ─▶ parked ─ placed in its cgroups ─▶ released ─▶ set up ─▶ execve
//!        │                      (child)        (parent)                      (child)
//!        └─▶ Launching: pid, pidfd, status descriptor ── poll() ─▶ Started | LaunchError
//! ```
//!
//! Called by the pod's monitor, which has one thread: the child runs ordinary code after the
//! clone, parses the spec there, and the monitor's heap stays as it was.
//!
//! What must never happen: a path of the container's file system resolved outside its root, a
//! descriptor of the monitor left open in the container, a change to the host's mount table, an
//! unplaced process that executes.
#![forbid(unsafe_code)]

mod error;
mod exec;
mod launching;
mod request;
mod sandbox;

pub use error::{ChildFailure, LaunchError, Step};
pub use exec::start_exec;
pub use launching::{Launching, Started, start_container};
pub use request::{ContainerLaunch, ExecLaunch, PidNamespace, Placement, Rootfs, Stdio};
pub use sandbox::{
    NamespaceHandles, Reaper, ReaperLaunch, SandboxNamespaces, make_sandbox_namespaces,
    start_reaper, unpin,
};

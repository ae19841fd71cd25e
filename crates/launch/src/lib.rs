//! Turns an OCI bundle into a running process, without executing a runtime program.
//!
//! ```text
//! start_container ─ clone3 ─▶ enters its cgroups ─▶ set up ─▶ execve      (child)
//!        │
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

mod capability;
mod cgroup_mount;
mod channel;
mod command;
mod console;
mod container;
mod devices;
mod error;
mod exec;
mod filesystem;
mod hooks;
mod idmap;
mod label;
mod launching;
mod limits;
mod mount_options;
mod mount_table;
mod mounts;
mod namespaces;
mod outline;
mod paths;
mod pivot;
mod probe;
mod process;
mod procfs;
mod program;
mod reaper;
mod request;
mod rootfs;
mod sandbox;
mod spawn;
mod spec;
mod stdio;
mod step;
mod surroundings;
mod sysctl;
mod user;

pub use error::{ChildFailure, LaunchError, Step};
pub use exec::start_exec;
pub use launching::{Launching, Started, start_container};
pub use probe::probe_user_namespaces;
pub use process::FILTER_FILE;
pub use program::{ProgramCreate, ProgramLaunch, start_program};
pub use reaper::{Reaper, ReaperLaunch, start_reaper};
pub use request::{ContainerLaunch, ExecLaunch, PidNamespace, Placement, Rootfs, Stdio};
pub use sandbox::{
    NamespaceHandles, PinnedUser, SandboxNamespaces, make_namespaces_here, make_sandbox_namespaces,
    open_sandbox_namespaces, unpin,
};

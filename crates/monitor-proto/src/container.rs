//! Starting a container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use types::ContainerId;

/// Starts a container. Answered with [`Started`] when its command executes, or with a failure
/// when a step before that failed; then nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartContainer {
    /// The container.
    pub id: ContainerId,
    /// The directory with its `config.json`.
    pub bundle: PathBuf,
    /// The source of its root.
    pub rootfs: Rootfs,
    /// An existing empty directory on which the root is mounted, in its mount namespace.
    pub rootfs_target: PathBuf,
    /// Its PID namespace.
    pub pid: ContainerPid,
    /// Its cgroups.
    #[serde(default)]
    pub cgroup: CgroupPlacement,
    /// The files that tell of the kernel's out-of-memory kills; read when it ends.
    #[serde(default)]
    pub oom_files: Vec<OomFile>,
    /// How to kill all of it.
    #[serde(default)]
    pub kill: KillCgroup,
    /// Where its output goes, or `None` to throw it away.
    #[serde(default)]
    pub log: Option<LogTarget>,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether its standard input is a pipe that the monitor keeps open, for attaching.
    #[serde(default)]
    pub stdin: bool,
    /// Whether standard input is closed when the first attached client leaves.
    #[serde(default)]
    pub stdin_once: bool,
    /// The program that makes it, in place of the monitor itself; needs
    /// [`crate::Features::PROGRAMS`]. The root is then mounted on `rootfs_target` in the
    /// monitor's own mount namespace, and stays there: who asked takes it away. Where owners are
    /// mapped ([`crate::Features::MAPPED_PROGRAMS`]) it is nowhere in that namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
}

/// A runtime program with runc's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program, absolute.
    pub path: PathBuf,
    /// Options before the command; `--root` is among them.
    pub options: Vec<String>,
    /// How long it has to make and start a container, and for each other command.
    pub timeout_ms: u64,
}

/// The source of a root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rootfs {
    /// An overlay.
    Overlay {
        /// Read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// The overlay's work directory.
        work: PathBuf,
    },
    /// A directory as it is.
    Dir(PathBuf),
}

/// A container's PID namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPid {
    /// Its own.
    #[default]
    New,
    /// The node's.
    Host,
    /// The pod's, which the reaper keeps.
    Pod,
    /// That of another running container of the pod.
    Container(ContainerId),
}

/// Where a process is put before it executes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlacement {
    /// `cgroup.procs` files: one a v1 hierarchy.
    #[serde(default)]
    pub procs_files: Vec<PathBuf>,
    /// A directory of the v2 tree to be cloned into; not to be named in `procs_files` as well.
    #[serde(default)]
    pub v2_dir: Option<PathBuf>,
}

/// How every process of a cgroup is killed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillCgroup {
    /// `cgroup.kill` of the v2 tree.
    #[serde(default)]
    pub kill_file: Option<PathBuf>,
    /// `cgroup.procs` that lists the processes: the fall-back, and what signals other than
    /// SIGKILL go by.
    #[serde(default)]
    pub procs_file: Option<PathBuf>,
}

/// A file that counts the kernel's out-of-memory kills in a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomFile {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub kind: OomFileKind,
}

/// The sort of an [`OomFile`]. Both have a line `oom_kill N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OomFileKind {
    /// `memory.oom_control`.
    V1OomControl,
    /// `memory.events`.
    V2Events,
}

/// A container's log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    /// The pod's log directory, which exists.
    pub directory: PathBuf,
    /// The file, relative to the directory; directories between are made. Neither `..` nor links
    /// are followed.
    pub file: PathBuf,
    /// The longest line, in bytes, before it is split; 0 for the default of 16 KiB.
    #[serde(default)]
    pub max_line: usize,
    /// The size at which the monitor itself puts the file aside; 0 for never.
    #[serde(default)]
    pub max_bytes: u64,
    /// The most files then, the one that is written among them.
    #[serde(default)]
    pub max_files: u32,
}

/// The answer to [`StartContainer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The container's first process.
    pub pid: i32,
    /// Its start time in clock ticks since boot (field 22 of `/proc/PID/stat`); with the pid it
    /// names the process.
    pub start_time: u64,
    /// When the command executed, in nanoseconds since 1970.
    pub started_at_ns: i64,
    /// What was clamped to what the machine allows.
    #[serde(default)]
    pub notices: Vec<String>,
}

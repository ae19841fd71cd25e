//! What the monitor asks for: plain data, borrowed descriptors.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::process::Pid;

/// A container to start.
#[derive(Debug)]
pub struct ContainerLaunch<'a> {
    /// The directory that holds `config.json`, an OCI runtime spec.
    pub bundle: PathBuf,
    /// Where the root file system comes from; the spec's `root.path` is not looked at.
    pub rootfs: Rootfs,
    /// An existing empty directory; the root is mounted on it, in the child's mount namespace only.
    pub rootfs_target: PathBuf,
    /// The PID namespace; the spec's own entry is not looked at.
    pub pid: PidNamespace<'a>,
    /// The cgroups to be in before anything of the container executes.
    pub cgroup: Placement<'a>,
    /// Descriptors 0, 1 and 2.
    pub stdio: Stdio<'a>,
}

/// A process to start inside a running container.
#[derive(Debug)]
pub struct ExecLaunch<'a> {
    /// The container's first process, as the caller's PID namespace numbers it.
    pub init_pid: Pid,
    /// The handle of the same process; namespaces are taken from it, never from the number.
    pub init_pidfd: BorrowedFd<'a>,
    /// The container's bundle; its seccomp profile, and its OOM score where the process names
    /// none, are taken from there.
    pub bundle: PathBuf,
    /// The whole OCI `Process` as JSON: user, capabilities, limits, environment, arguments.
    pub process: Vec<u8>,
    /// The cgroups to be in before anything executes.
    pub cgroup: Placement<'a>,
    /// Descriptors 0, 1 and 2.
    pub stdio: Stdio<'a>,
}

/// The source of a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// An overlay to be mounted in the child.
    Overlay {
        /// Read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// The overlay's work directory, on the file system of `upper`.
        work: PathBuf,
    },
    /// A directory that is the root as it is.
    Dir(PathBuf),
}

/// The PID namespace of a container.
#[derive(Debug, Clone, Copy)]
pub enum PidNamespace<'a> {
    /// A new one, whose first process the container is.
    New,
    /// The caller's.
    Host,
    /// The one behind this handle (of the pod, or of another container).
    Join(BorrowedFd<'a>),
}

/// Where a process is put before it executes.
#[derive(Debug, Clone, Default)]
pub struct Placement<'a> {
    /// `cgroup.procs` files of the cgroups that the child enters by itself: one a v1 hierarchy.
    pub procs_files: Vec<PathBuf>,
    /// A directory of the v2 tree to be cloned into.
    pub into_cgroup: Option<BorrowedFd<'a>>,
}

/// The first three descriptors of a process.
#[derive(Debug, Clone, Copy)]
pub enum Stdio<'a> {
    /// Duplicates of these; `/dev/null` where none is given.
    Pipes {
        /// Descriptor 0.
        stdin: Option<BorrowedFd<'a>>,
        /// Descriptor 1.
        stdout: Option<BorrowedFd<'a>>,
        /// Descriptor 2.
        stderr: Option<BorrowedFd<'a>>,
    },
    /// A terminal made in the container; its master comes back in [`crate::Started::console`].
    Terminal,
}

//! Starting a monitor's process.
//!
//! The monitor finds the daemon's connection as descriptor 0, the socket to listen on as 1 and
//! its log as 2. It is cloned into its cgroup of the unified tree and enters the others before
//! it executes: whom somebody else moves waits for a grace period of the kernel.

use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use monitor_proto::{CgroupPlacement, EXITS_DIR, MONITOR_LOG_NAME};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Signal;
use sys::exec::StringArray;
use sys::spawn::{Program, SpawnError};
use types::SandboxId;

use crate::watch::watch;
use crate::{MonitorError, MonitorProgram};

/// A monitor that was started and has done nothing yet. Dropped, it is killed.
pub(crate) struct SpawnedMonitor {
    socket: OwnedFd,
    child: Child,
}

/// The process of a monitor that this daemon started. Dropped, it is killed and reaped.
#[derive(Debug)]
pub(crate) struct Child {
    pidfd: Option<OwnedFd>,
}

impl SpawnedMonitor {
    /// Starts the process. Blocks for the time of an execve.
    pub(crate) fn start(
        program: &MonitorProgram,
        sandbox: &SandboxId,
        state_dir: &Path,
        cgroup: &CgroupPlacement,
    ) -> Result<Self, MonitorError> {
        if monitor_proto::connect(state_dir).is_ok() {
            return Err(MonitorError::RunsAlready { sandbox: sandbox.clone() });
        }
        let (listener, log) = prepare(sandbox, state_dir)?;
        let failed = |source: io::Error| MonitorError::Spawn { sandbox: sandbox.clone(), source };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(|errno| failed(errno.into()))?;
        let stdio = [theirs.as_fd(), listener.as_fd(), log.as_fd()];
        let pidfd =
            execute(program, sandbox, state_dir, stdio, cgroup).map_err(|error| match error {
                SpawnError::Place { path, source } => {
                    MonitorError::Place { sandbox: sandbox.clone(), path, source }
                }
                SpawnError::Clone(source) | SpawnError::Execute(source) => failed(source),
            })?;
        let child = Child { pidfd: Some(pidfd) };
        Ok(Self { socket: ours, child })
    }

    pub(crate) fn into_parts(self) -> (OwnedFd, Child) {
        (self.socket, self.child)
    }
}

fn execute(
    program: &MonitorProgram,
    sandbox: &SandboxId,
    state_dir: &Path,
    stdio: [BorrowedFd<'_>; 3],
    cgroup: &CgroupPlacement,
) -> Result<OwnedFd, SpawnError> {
    let text =
        |bytes: &[u8]| CString::new(bytes).map_err(|error| SpawnError::Execute(error.into()));
    let directory = state_dir.as_os_str().as_bytes();
    let args: [&[u8]; 5] =
        [b"corten-monitor", b"--sandbox", sandbox.as_str().as_bytes(), b"--state-dir", directory];
    let args = args.into_iter().map(text).collect::<Result<_, _>>()?;
    let into = cgroup.v2_dir.as_deref().map(open_directory).transpose()?;
    let (_, pidfd) = sys::spawn::spawn(&Program {
        path: &text(program.path().as_os_str().as_bytes())?,
        args: &StringArray::new(args),
        env: &StringArray::new(Vec::new()),
        stdio,
        into_cgroup: into.as_ref().map(AsFd::as_fd),
        procs_files: &cgroup.procs_files,
    })?;
    Ok(pidfd)
}

fn open_directory(path: &Path) -> Result<OwnedFd, SpawnError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| SpawnError::Place { path: path.to_owned(), source: errno.into() })
}

fn prepare(sandbox: &SandboxId, state_dir: &Path) -> Result<(OwnedFd, File), MonitorError> {
    let failed = |path: PathBuf| {
        let sandbox = sandbox.clone();
        move |source| MonitorError::StateDir { sandbox, path, source }
    };
    let exits = state_dir.join(EXITS_DIR);
    match DirBuilder::new().mode(0o700).create(&exits) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed(exits)(error));
        }
        _ => {}
    }
    let log = state_dir.join(MONITOR_LOG_NAME);
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let log_file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(&log)
        .map_err(failed(log))?;
    let listener = monitor_proto::bind(state_dir)
        .map_err(failed(state_dir.join(monitor_proto::SOCKET_NAME)))?;
    Ok((listener, log_file))
}

/// Runs a process that tries user namespaces; it ends by itself.
pub(crate) fn probe(program: &MonitorProgram, scratch: &Path) -> Result<(), String> {
    let output = Command::new(program.path())
        .arg0("corten-monitor")
        .arg("--probe-user-namespaces")
        .arg(scratch)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("failed to start the monitor's program: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().last().map_or_else(|| output.status.to_string(), str::to_owned))
}

impl Child {
    /// Lets it live without this handle; it is reaped when it ends.
    pub(crate) fn release(mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            tokio::spawn(reap(pidfd));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            // SIGKILL ends a process that holds nothing at once.
            let _ = sys::pidfd::wait_and_reap(&pidfd);
        }
    }
}

async fn reap(pidfd: OwnedFd) {
    match watch(pidfd) {
        Ok(watched) => {
            let _ = watched.readable().await;
            // Somebody who reaps every child of this process may have been faster.
            let _ = sys::pidfd::reap(watched.get_ref());
        }
        Err(error) => tracing::warn!(%error, "a monitor's end cannot be watched"),
    }
}

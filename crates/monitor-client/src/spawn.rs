//! Starting a monitor's process.
//!
//! The monitor finds the daemon's connection as descriptor 0, the socket to listen on as 1 and
//! its log as 2: nothing has to run between fork and exec, so that the C library's posix_spawn
//! starts it without a copy of the daemon's page tables.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use monitor_proto::{EXITS_DIR, MONITOR_LOG_NAME};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};
use types::SandboxId;

use crate::watch::watch;
use crate::{MonitorError, MonitorProgram};

/// A monitor that was started and has done nothing yet. Dropped, it is killed.
pub(crate) struct SpawnedMonitor {
    sandbox: SandboxId,
    socket: OwnedFd,
    child: Child,
}

/// The process of a monitor that this daemon started. Dropped, it is killed and reaped.
#[derive(Debug)]
pub(crate) struct Child {
    process: Option<(std::process::Child, OwnedFd)>,
}

impl SpawnedMonitor {
    /// Starts the process. Blocks for the time of an execve.
    pub(crate) fn start(
        program: &MonitorProgram,
        sandbox: &SandboxId,
        state_dir: &Path,
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
        let child = Command::new(program.path())
            .arg0("corten-monitor")
            .arg("--sandbox")
            .arg(sandbox.as_str())
            .arg("--state-dir")
            .arg(state_dir)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(listener))
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(failed)?;
        let child = Child::new(child).map_err(failed)?;
        Ok(Self { sandbox: sandbox.clone(), socket: ours, child })
    }

    /// Puts the process into cgroups; it waits for its greeting meanwhile.
    pub(crate) fn place(&self, procs_files: &[PathBuf]) -> Result<(), MonitorError> {
        let pid = self.child.pid();
        for path in procs_files {
            std::fs::write(path, pid.to_string()).map_err(|source| MonitorError::Place {
                sandbox: self.sandbox.clone(),
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    pub(crate) fn into_parts(self) -> (OwnedFd, Child) {
        (self.socket, self.child)
    }
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
    fn new(mut child: std::process::Child) -> io::Result<Self> {
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { process: Some((child, pidfd)) }),
            Err(errno) => {
                child.kill()?;
                child.wait()?;
                Err(errno.into())
            }
        }
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |(child, _)| child.id())
    }

    /// Lets it live without this handle; it is reaped when it ends.
    pub(crate) fn release(mut self) {
        if let Some((child, pidfd)) = self.process.take() {
            tokio::spawn(reap(child, pidfd));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some((mut child, pidfd)) = self.process.take() {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            // SIGKILL ends a process that holds nothing at once.
            let _ = child.wait();
        }
    }
}

async fn reap(mut child: std::process::Child, pidfd: OwnedFd) {
    let watched = watch(pidfd);
    match watched {
        Ok(watched) => {
            let _ = watched.readable().await;
            // Somebody who reaps every child of this process may have been faster.
            let _ = child.wait();
        }
        Err(error) => tracing::warn!(%error, "a monitor's end cannot be watched"),
    }
}

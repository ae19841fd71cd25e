//! A launch under way, as the monitor's event loop sees it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::process::Pid;

use crate::{ContainerLaunch, LaunchError};

/// A process that was released and is being set up.
#[derive(Debug)]
pub struct Launching {
    /// The process, as the caller's PID namespace numbers it.
    pub pid: Pid,
    /// Its handle. The caller reaps the process, whether the launch succeeds or fails.
    pub pidfd: OwnedFd,
    status: OwnedFd,
}

/// A process that executes the command.
#[derive(Debug)]
pub struct Started {
    /// What was clamped to what this machine allows; for the log.
    pub notices: Vec<String>,
    /// The master of the terminal, where one was asked for.
    pub console: Option<OwnedFd>,
}

impl Launching {
    /// The descriptor to poll for reading; [`Launching::poll`] is called when it is ready.
    pub fn status_fd(&self) -> BorrowedFd<'_> {
        self.status.as_fd()
    }

    /// Takes what the child has said; `None` while it is not done. Never blocks. Not to be called
    /// again after it gave a result.
    pub fn poll(&mut self) -> Option<Result<Started, LaunchError>> {
        None
    }
}

/// Clones, places and releases the first process of a container.
///
/// # Errors
/// Where it fails no process is left: a child that was cloned has been killed and reaped.
pub fn start_container(_launch: &ContainerLaunch<'_>) -> Result<Launching, LaunchError> {
    Err(LaunchError::ChildDied)
}

//! A further process in a running container.

use crate::{ExecLaunch, LaunchError, Launching};

/// Clones, places and releases a process inside a running container.
///
/// # Errors
/// Where it fails no process is left: a child that was cloned has been killed and reaped.
pub fn start_exec(_launch: &ExecLaunch<'_>) -> Result<Launching, LaunchError> {
    Err(LaunchError::ChildDied)
}

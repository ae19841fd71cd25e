//! A process that keeps a scope: systemd makes a scope around processes, and ends it with
//! the last one.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::{
    CgroupError,
    files::{failed, write},
};

/// The argument that makes the monitor's program wait for the end of its input.
pub const HOLD_ARGUMENT: &str = "--hold";

/// A process that waits, and ends with the value or with us.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    /// A limit in which the holder was counted, and what it is without.
    afterwards: Option<(PathBuf, String)>,
}

impl Holder {
    pub(crate) fn start(program: &Path) -> Result<Self, CgroupError> {
        Command::new(program)
            .arg(HOLD_ARGUMENT)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .map(|child| Self { child, afterwards: None })
            .map_err(failed("run", program))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has a limit set when the holder has ended.
    pub(crate) fn set_afterwards(&mut self, file: PathBuf, value: String) {
        self.afterwards = Some((file, value));
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It is a child that was not waited for: its number is its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some((file, value)) = &self.afterwards {
            // The container may have ended already, and its cgroup with it.
            let _ = write(file, value);
        }
    }
}

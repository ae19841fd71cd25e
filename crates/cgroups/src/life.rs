//! Freezing, killing and removing.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{
    Cgroup, CgroupError, CgroupPath, Mode,
    files::{failed, is_gone, read, subtree, wait_until, write},
};

/// How long a cgroup may take to freeze.
const FREEZE_LIMIT: Duration = Duration::from_secs(1);
/// How long dying processes may keep a cgroup.
pub(crate) const REMOVE_LIMIT: Duration = Duration::from_secs(3);
/// How often processes are looked for while they fork away from being killed.
const KILL_ROUNDS: usize = 32;
/// How many handles of processes are open at once.
const MAX_HANDLES: usize = 256;

impl Cgroup {
    /// Tells whether it is there, in any hierarchy.
    pub fn exists(&self) -> bool {
        self.layout.dirs(&self.path).iter().any(|dir| dir.exists())
    }

    /// Stops all processes where they are.
    ///
    /// # Errors
    /// Fails where the kernel refuses, or does not finish within a second.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true)
    }

    /// Lets all processes go on.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let (file, value, state, done) = if self.layout.mode() == Mode::Unified {
            let Some(dir) = self.v2_dir() else { return Ok(()) };
            let value = if frozen { "1" } else { "0" };
            (dir.join("cgroup.freeze"), value, dir.join("cgroup.events"), format!("frozen {value}"))
        } else {
            let Some(dir) = self.layout.v1_dir("freezer", &self.path) else { return Ok(()) };
            let value = if frozen { "FROZEN" } else { "THAWED" };
            (dir.join("freezer.state"), value, dir.join("freezer.state"), value.to_owned())
        };
        match write(&file, value) {
            Ok(()) => {}
            Err(e) if is_gone(&e) => return Ok(()),
            Err(e) => return Err(failed("write", &file)(e)),
        }
        let is_done = || read(&state).is_ok_and(|text| text.is_none_or(|t| t.contains(&done)));
        if wait_until(FREEZE_LIMIT, is_done) {
            return Ok(());
        }
        let waited_ms = u64::try_from(FREEZE_LIMIT.as_millis()).unwrap_or(u64::MAX);
        Err(CgroupError::NotFrozen { path: file, waited_ms })
    }

    /// Sends SIGKILL to every process in the cgroup and below it, also frozen ones.
    /// No cgroup is fine. The processes may need a moment to be gone.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let by_file = self.v2_dir().map(|dir| dir.join("cgroup.kill"));
        match by_file.as_deref().map(|file| write(file, "1")) {
            // Beside the unified tree, a process may be in the v1 hierarchies alone.
            Some(Ok(())) if self.layout.mode() == Mode::Hybrid => self.signal_each()?,
            Some(Ok(())) => {}
            Some(Err(e)) if !is_gone(&e) => {
                return Err(failed("write", by_file.as_deref().unwrap_or(Path::new("")))(e));
            }
            _ => self.kill_each()?,
        }
        // A v1 freezer keeps a killed process from dying.
        self.thaw()
    }

    /// Kills one by one, frozen so that none forks away, and again until none is left.
    fn kill_each(&self) -> Result<(), CgroupError> {
        for _ in 0..KILL_ROUNDS {
            if self.is_empty()? {
                return Ok(());
            }
            // Without a freezer the rounds are what there is.
            let _ = self.freeze();
            self.signal_each()?;
            self.thaw()?;
            wait_until(Duration::from_millis(20), || self.is_empty().unwrap_or(false));
        }
        Ok(())
    }

    /// Sends SIGKILL to each process. A number may be another process's by the time that
    /// it is used: so each gets a handle first, and is killed by it if it is still listed
    /// then.
    fn signal_each(&self) -> Result<(), CgroupError> {
        let mut pids = self.pids()?;
        while !pids.is_empty() {
            // A handful at a time, for the sake of the limit of open files.
            let rest = pids.split_off(pids.len().min(MAX_HANDLES));
            let handles: Vec<_> = pids
                .iter()
                .filter_map(|pid| {
                    let handle = pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?;
                    Some((*pid, handle))
                })
                .collect();
            let listed = self.pids()?;
            for (pid, handle) in handles {
                if listed.binary_search(&pid).is_ok() {
                    // It may have ended meanwhile.
                    let _ = pidfd_send_signal(handle, Signal::KILL);
                }
            }
            pids = rest;
        }
        Ok(())
    }

    /// Returns the processes in the cgroup and below it.
    ///
    /// # Errors
    /// Fails where they cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = BTreeSet::new();
        for dir in self.layout.dirs(&self.path) {
            for below in subtree(&dir) {
                let text = read(&below.join("cgroup.procs"))?.unwrap_or_default();
                pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
            }
        }
        Ok(pids.into_iter().collect())
    }

    /// Tells whether no process is in the cgroup or below it (or it is gone).
    ///
    /// # Errors
    /// Fails where that cannot be read.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        Ok(self.pids()?.is_empty())
    }

    /// Removes the cgroup and all below it; none is fine. Waits up to
    /// a bounded time for dying processes.
    ///
    /// # Errors
    /// Fails where processes remain.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.stop_unit()?;
        for dir in self.layout.dirs(&self.path) {
            remove_tree(&dir)?;
        }
        Ok(())
    }

    /// Removes the cgroup where nothing is in it or below it; otherwise does nothing.
    pub fn remove_if_empty(&self) {
        self.stop_slice_if_empty();
        for dir in self.layout.dirs(&self.path) {
            let _ = fs::remove_dir(dir);
        }
    }

    /// Removes the parents that are empty now, up to and including `top`, which must
    /// be the caller's own.
    pub fn remove_empty_parents(&self, top: &CgroupPath) {
        let mut path = self.path.as_str();
        while let Some((parent, _)) = path.rsplit_once('/') {
            path = parent;
            let is_ours = path == top.as_str()
                || path.strip_prefix(top.as_str()).is_some_and(|r| r.starts_with('/'));
            let Some(parent) = is_ours.then(|| path.parse().ok()).flatten() else { return };
            Self { path: parent, ..self.clone() }.remove_if_empty();
        }
    }
}

fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    let mut last: Option<(PathBuf, io::Error)> = None;
    let done = wait_until(REMOVE_LIMIT, || {
        last = None;
        for below in subtree(dir) {
            match fs::remove_dir(&below) {
                Ok(()) => {}
                Err(e) if is_gone(&e) => {}
                Err(e) => last = Some((below, e)),
            }
        }
        last.is_none()
    });
    match last {
        Some((path, e)) if !done && e.raw_os_error() != Some(libc::EBUSY) => {
            Err(failed("remove", &path)(e))
        }
        Some((path, _)) if !done => {
            let waited_ms = u64::try_from(REMOVE_LIMIT.as_millis()).unwrap_or(u64::MAX);
            Err(CgroupError::Busy { path, waited_ms })
        }
        _ => Ok(()),
    }
}

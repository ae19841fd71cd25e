//! Control groups: paths, limits, device rules, figures, out-of-memory counts,
//! freezing, killing and removing; on cgroup v1, v1 with the unified tree (hybrid)
//! and v2, by the cgroupfs driver.
#![forbid(unsafe_code)]

mod error;
mod path;
mod resources;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use error::CgroupError;
pub use path::{CgroupPath, Driver, validate_parent};
pub use resources::{DeviceAccess, DeviceKind, DeviceRule, HugepageLimit, Resources};

/// Which hierarchies the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Controllers in hierarchies of their own.
    V1,
    /// The same, and the unified tree beside them (without most controllers).
    Hybrid,
    /// The unified tree alone.
    Unified,
}

/// The machine's cgroup hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mode: Mode,
}

/// A limit that the machine cannot enforce, because a controller or file is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedLimit {
    /// What was asked for: `memory.swap`, `hugetlb.2MB`, …
    pub limit: String,
    /// Why it is not applied.
    pub reason: String,
}

/// A cgroup that was made.
#[derive(Debug)]
pub struct Created {
    /// The cgroup.
    pub cgroup: Cgroup,
    /// What could not be limited.
    pub skipped: Vec<SkippedLimit>,
}

/// A cgroup: its directories in all hierarchies. It can be written to disk and read
/// back, and then works as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    path: CgroupPath,
}

/// Files that tell of out-of-memory kills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OomFiles {
    /// v1: an eventfd is registered in `event_control` for `oom_control`.
    V1 {
        /// `memory.oom_control`.
        oom_control: PathBuf,
        /// `cgroup.event_control`.
        event_control: PathBuf,
    },
    /// v2: `memory.events`, which changes (inotify, POLLPRI).
    V2 {
        /// `memory.events`.
        events: PathBuf,
    },
}

/// A cgroup's figures. What the machine does not count is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used, in nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The limit of processes and threads, if there is one.
    pub pids_limit: Option<u64>,
}

/// A cgroup's memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All that is charged, caches included.
    pub usage: u64,
    /// Usage without the inactive part of the file cache: what the kubelet evicts by.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Minor page faults.
    pub page_faults: u64,
    /// Major page faults.
    pub major_page_faults: u64,
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// Swap used, where it is counted.
    pub swap_usage: Option<u64>,
}

impl Cgroups {
    /// Finds the machine's hierarchies.
    ///
    /// # Errors
    /// Fails where none is mounted.
    pub fn detect() -> Result<Self, CgroupError> {
        todo!()
    }

    /// Returns which hierarchies there are.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Makes the cgroup `path` in every hierarchy, with the missing parents, and
    /// applies `resources`. On failure nothing that was made is left.
    ///
    /// # Errors
    /// Fails where a directory cannot be made or a limit is refused.
    pub fn create(&self, path: &CgroupPath, resources: &Resources) -> Result<Created, CgroupError> {
        let _ = (path, resources);
        todo!()
    }

    /// Describes the cgroup `path`, whether it is there or not.
    pub fn open(&self, path: &CgroupPath) -> Cgroup {
        Cgroup { path: path.clone() }
    }
}

impl Cgroup {
    /// Returns the path in the hierarchies.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Returns the `cgroup.procs` of every hierarchy, the unified tree's last. A
    /// process that is written to all of them is in the cgroup.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        todo!()
    }

    /// Returns the directory in the unified tree, for `CLONE_INTO_CGROUP`.
    pub fn v2_dir(&self) -> Option<&Path> {
        todo!()
    }

    /// Returns the files that tell of out-of-memory kills.
    pub fn oom_files(&self) -> Option<OomFiles> {
        todo!()
    }

    /// Returns `cgroup.kill`, where the kernel has it.
    pub fn kill_file(&self) -> Option<PathBuf> {
        todo!()
    }

    /// Applies `resources` to the running cgroup; what is `None` stays. Returns what
    /// could not be limited.
    ///
    /// # Errors
    /// Fails where a limit is refused.
    pub fn update(&self, resources: &Resources) -> Result<Vec<SkippedLimit>, CgroupError> {
        let _ = resources;
        todo!()
    }

    /// Stops all processes where they are.
    ///
    /// # Errors
    /// Fails where the kernel refuses, or does not finish within a second.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Lets all processes go on.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Sends SIGKILL to every process in the cgroup and below it, also frozen ones.
    /// No cgroup is fine. The processes may need a moment to be gone.
    ///
    /// # Errors
    /// Fails where the kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Returns the processes in the cgroup and below it.
    ///
    /// # Errors
    /// Fails where they cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        todo!()
    }

    /// Tells whether no process is in the cgroup or below it (or it is gone).
    ///
    /// # Errors
    /// Fails where that cannot be read.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        todo!()
    }

    /// Removes the cgroup and all below it; none is fine. Waits up to
    /// a bounded time for dying processes.
    ///
    /// # Errors
    /// Fails where processes remain.
    pub fn remove(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Removes those parents that [`Cgroups::create`] made and that are empty now.
    ///
    /// # Errors
    /// Fails where the kernel refuses for another reason than use.
    pub fn remove_empty_parents(&self) -> Result<(), CgroupError> {
        todo!()
    }

    /// Returns how many processes in the cgroup the kernel has killed for want of
    /// memory, or `None` where that is not counted.
    ///
    /// # Errors
    /// Fails where it cannot be read.
    pub fn oom_kill_count(&self) -> Result<Option<u64>, CgroupError> {
        todo!()
    }

    /// Reads the figures. Of a cgroup that is gone, all are `None`.
    ///
    /// # Errors
    /// Fails where they cannot be read.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        todo!()
    }
}

//! Control groups: paths, limits, device rules, figures, out-of-memory counts,
//! freezing, killing and removing; on cgroup v1, v1 with the unified tree (hybrid)
//! and v2, by the cgroupfs driver; on v2 also by systemd's.
#![forbid(unsafe_code)]

mod devices;
mod error;
mod files;
mod hold;
mod layout;
mod life;
mod path;
mod resources;
mod scope;
mod stats;
mod systemd;
mod unit;
mod v1;
mod v2;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use layout::Layout;
use scope::Scopes;

pub use error::CgroupError;
pub use hold::{HOLD_ARGUMENT, Holder};
pub use path::{CgroupPath, Driver, validate_parent};
pub use resources::{DeviceAccess, DeviceKind, DeviceRule, HugepageLimit, Resources};
pub use stats::{MemoryStats, Stats};

/// How often a cgroup is made again whose parent was removed meanwhile, by the end of
/// the last cgroup beside it. Each time needs another end at the wrong moment.
const CREATE_ATTEMPTS: usize = 16;

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
    layout: Arc<Layout>,
    /// Where systemd makes them.
    scopes: Option<Arc<Scopes>>,
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
    /// What keeps a cgroup of systemd's until a process was placed in it.
    pub holder: Option<Holder>,
}

/// A cgroup: its directories in all hierarchies, whether they are there or not. After a
/// restart it is opened again by its path.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: CgroupPath,
    layout: Arc<Layout>,
    scopes: Option<Arc<Scopes>>,
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

impl Cgroups {
    /// Finds the machine's hierarchies.
    ///
    /// # Errors
    /// Fails where none is mounted.
    pub fn detect() -> Result<Self, CgroupError> {
        Ok(Self { layout: Arc::new(Layout::detect()?), scopes: None })
    }

    /// Returns which hierarchies there are.
    pub fn mode(&self) -> Mode {
        self.layout.mode()
    }

    /// Returns the path of our own parent, as it is configured, of all else that is made.
    ///
    /// # Errors
    /// Fails where it is no path that this driver has.
    pub fn top(&self, configured: &str) -> Result<String, CgroupError> {
        validate_parent(self.driver(), configured)?;
        match self.driver() {
            Driver::Cgroupfs => Ok(configured.trim_end_matches('/').to_owned()),
            Driver::Systemd => unit::slice_path(configured),
        }
    }

    /// Returns the path of a sandbox's parent: as it was asked for, or, where nothing was,
    /// one of the sandbox's own below `default`.
    ///
    /// # Errors
    /// Fails where it is no path that this driver has.
    pub fn parent(&self, asked: &str, default: &str, id: &str) -> Result<String, CgroupError> {
        validate_parent(self.driver(), asked)?;
        match (self.driver(), asked) {
            (Driver::Cgroupfs, "") => Ok(format!("{default}/pod-{id}")),
            (Driver::Cgroupfs, asked) => Ok(asked.to_owned()),
            (Driver::Systemd, "") => unit::slice_path(&unit::pod_slice(default, id)),
            (Driver::Systemd, asked) => unit::slice_path(asked),
        }
    }

    /// Returns the path of the cgroup that is called `name` below a parent: a directory,
    /// or systemd's scope.
    pub fn leaf(&self, parent: &str, name: &str) -> String {
        match self.driver() {
            Driver::Cgroupfs => format!("{parent}/{name}"),
            Driver::Systemd => format!("{parent}/{}", unit::scope(name)),
        }
    }

    /// Returns how a specification names a cgroup, for programs that make it themselves.
    pub fn for_specification(&self, path: &str) -> String {
        match (self.driver(), path.parse()) {
            (Driver::Systemd, Ok(path)) => unit::for_specification(&path),
            _ => path.to_owned(),
        }
    }

    /// Makes the cgroup `path` in every hierarchy, with the missing parents, and
    /// applies `resources`. On failure nothing that was made is left.
    ///
    /// # Errors
    /// Fails where a directory cannot be made or a limit is refused.
    pub fn create(&self, path: &CgroupPath, resources: &Resources) -> Result<Created, CgroupError> {
        if self.mode() == Mode::Unified {
            v2::check(resources)?;
        }
        if let Some(scopes) = self.scopes.as_deref().filter(|_| unit::is_scope(path)) {
            return self.create_scope(scopes, path, resources);
        }
        let mut attempt = 1;
        loop {
            match self.create_once(path, resources) {
                // A parent was removed as empty after it was found here and before there
                // was something in it.
                Err(error) if error.is_gone() && attempt < CREATE_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn create_once(
        &self,
        path: &CgroupPath,
        resources: &Resources,
    ) -> Result<Created, CgroupError> {
        let mut made = Vec::new();
        let mut skipped = Vec::new();
        let cgroup = self.open(path);
        let result =
            self.make(path, &mut made).and_then(|()| cgroup.apply(resources, &mut skipped));
        match result {
            Ok(()) => Ok(Created { cgroup, skipped, holder: None }),
            Err(error) => {
                for dir in made.iter().rev() {
                    // One that is in use meanwhile is somebody else's too.
                    let _ = std::fs::remove_dir(dir);
                }
                Err(error)
            }
        }
    }

    fn make(&self, path: &CgroupPath, made: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
        v1::create(&self.layout, path, made)?;
        match &self.layout.unified {
            Some(root) => v2::create(root, path.relative(), self.mode() == Mode::Unified, made),
            None => Ok(()),
        }
    }

    /// Describes the cgroup `path`, whether it is there or not.
    pub fn open(&self, path: &CgroupPath) -> Cgroup {
        Cgroup { path: path.clone(), layout: self.layout.clone(), scopes: self.scopes.clone() }
    }
}

impl Cgroup {
    /// Returns the path in the hierarchies.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Returns the `cgroup.procs` of every hierarchy, the unified tree's last.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        self.layout.dirs(&self.path).into_iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// Returns the `cgroup.procs` of the v1 hierarchies alone. A process that is in these and
    /// in [`Cgroup::v2_dir`] is in the cgroup.
    pub fn v1_procs_files(&self) -> Vec<PathBuf> {
        self.layout
            .v1
            .iter()
            .map(|h| h.mount.join(self.path.relative()).join("cgroup.procs"))
            .collect()
    }

    /// Returns the directory in the unified tree, for `CLONE_INTO_CGROUP` and for
    /// cgroups below that need no limits of their own.
    pub fn v2_dir(&self) -> Option<PathBuf> {
        self.layout.v2_dir(&self.path)
    }

    /// Returns the files that tell of out-of-memory kills.
    pub fn oom_files(&self) -> Option<OomFiles> {
        if self.layout.mode() == Mode::Unified {
            return self.v2_dir().map(|dir| OomFiles::V2 { events: dir.join("memory.events") });
        }
        let dir = self.layout.v1_dir("memory", &self.path)?;
        Some(OomFiles::V1 {
            oom_control: dir.join("memory.oom_control"),
            event_control: dir.join("cgroup.event_control"),
        })
    }

    /// Returns `cgroup.kill`, where the kernel has it (since 5.14).
    pub fn kill_file(&self) -> Option<PathBuf> {
        let root = self.layout.unified.as_deref()?;
        let file = self.v2_dir()?.join("cgroup.kill");
        // The root has no such file: one that exists below tells whether the kernel has it.
        (file.exists() || (!self.exists() && kernel_has_kill(root))).then_some(file)
    }

    /// Applies `resources` to the running cgroup; what is `None` stays. Returns what
    /// could not be limited.
    ///
    /// # Errors
    /// Fails where a limit is refused.
    pub fn update(&self, resources: &Resources) -> Result<Vec<SkippedLimit>, CgroupError> {
        let mut skipped = Vec::new();
        self.tell_systemd(resources)?;
        self.apply(resources, &mut skipped)?;
        Ok(skipped)
    }

    fn apply(
        &self,
        resources: &Resources,
        skipped: &mut Vec<SkippedLimit>,
    ) -> Result<(), CgroupError> {
        match (self.layout.mode(), self.v2_dir()) {
            (Mode::Unified, Some(dir)) => {
                v2::check(resources)?;
                v2::apply(&dir, resources, skipped)
            }
            _ => v1::apply(&self.layout, &self.path, resources, skipped),
        }
    }
}

fn kernel_has_kill(unified: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(unified) else { return false };
    entries.flatten().any(|e| e.path().join("cgroup.kill").exists())
}

/// Puts a device program on a directory of the unified tree. The daemon does so only
/// where that tree is alone; a test may also where it is not.
///
/// # Errors
/// Fails where the kernel refuses.
#[doc(hidden)]
pub fn testing_replace_device_program(dir: &Path, rules: &[DeviceRule]) -> std::io::Result<()> {
    use std::os::fd::AsFd;
    devices::replace(std::fs::File::open(dir)?.as_fd(), rules)
}

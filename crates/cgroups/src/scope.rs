//! The systemd driver: containers in scopes, pods in slices.
//!
//! ```text
//! a holder is started ─► a scope around it ─► limits that systemd does not know
//!     ─► the caller places its process ─► the holder ends ─► the last process ends, and
//!        systemd removes the scope
//! ```
//!
//! A slice comes with its first scope and stays until it is stopped, which is done only
//! while nothing is in it: stopping a slice ends all that is below.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    Cgroup, CgroupError, CgroupPath, Cgroups, Created, Driver, Holder, Mode, Resources,
    files::{failed, read, read_number, set, value_of, wait_until, write},
    life::REMOVE_LIMIT,
    systemd::Systemd,
    unit, v2,
};

/// How long a scope of the same name may be on its way in or out: it has a unit already,
/// or still, and no cgroup.
const PASSING: Duration = Duration::from_secs(5);

/// Where systemd keeps the limits of units that are not transient, as slices, until the
/// machine restarts: longer than the slice is there.
const KEPT_LIMITS: &str = "/run/systemd/system.control";

/// What the driver works with.
#[derive(Debug)]
pub(crate) struct Scopes {
    systemd: Systemd,
    holder: PathBuf,
}

impl Cgroups {
    /// Has systemd make cgroups. `holder` is a program that waits for the end of its
    /// input when it is started with [`crate::HOLD_ARGUMENT`].
    ///
    /// # Errors
    /// Fails where systemd is not the first process, where v1 is in use, or where
    /// systemd does not answer.
    pub async fn with_systemd(mut self, holder: PathBuf) -> Result<Self, CgroupError> {
        let boots = std::path::Path::new("/run/systemd/system").is_dir();
        if !boots || self.mode() != Mode::Unified {
            return Err(CgroupError::NoSystemd);
        }
        self.scopes = Some(Arc::new(Scopes { systemd: Systemd::connect().await?, holder }));
        Ok(self)
    }

    /// Returns who makes cgroups.
    pub fn driver(&self) -> Driver {
        if self.scopes.is_some() { Driver::Systemd } else { Driver::Cgroupfs }
    }

    pub(crate) fn create_scope(
        &self,
        scopes: &Scopes,
        path: &CgroupPath,
        resources: &Resources,
    ) -> Result<Created, CgroupError> {
        v2::check(resources)?;
        let mut holder = Holder::start(&scopes.holder)?;
        let cgroup = self.open(path);
        let (_, unit) = unit::split(path);
        let mut properties = unit::scope_properties(path, holder.pid());
        properties.extend(unit::limits(resources));
        let mut result = Ok(false);
        let there = wait_until(PASSING, || {
            result = scopes.systemd.start_scope(unit, &properties);
            // One that is there takes our process as well, while it lasts.
            !matches!(result, Ok(false)) || cgroup.place(holder.pid()).is_ok()
        });
        let mut skipped = Vec::new();
        match result {
            Err(error) => Err(error),
            Ok(false) if there => Ok(Created { cgroup, skipped, holder: Some(holder) }),
            Ok(false) => Err(CgroupError::UnitPasses { unit: unit.to_owned() }),
            Ok(true) => match cgroup.limit_scope(resources, &mut skipped, &mut holder) {
                Ok(()) => Ok(Created { cgroup, skipped, holder: Some(holder) }),
                Err(error) => {
                    drop(holder);
                    cgroup.remove()?;
                    Err(error)
                }
            },
        }
    }
}

impl Cgroup {
    /// Applies what systemd was told once more, exactly, and what it does not know.
    fn limit_scope(
        &self,
        resources: &Resources,
        skipped: &mut Vec<crate::SkippedLimit>,
        holder: &mut Holder,
    ) -> Result<(), CgroupError> {
        if !resources.hugepages.is_empty() {
            self.pass_all_down();
        }
        self.apply(resources, skipped)?;
        // While the holder is there it is one process more.
        let file = self.v2_dir().unwrap_or_default().join("pids.max");
        if let Some(limit) = read_number(&file)? {
            set(&file, &limit.saturating_add(1).to_string())?;
            holder.set_afterwards(file, limit.to_string());
        }
        Ok(())
    }

    /// systemd passes down the controllers that it knows.
    fn pass_all_down(&self) {
        let Some(root) = &self.layout.unified else { return };
        let mut dir = root.clone();
        v2::pass_controllers_down(&dir);
        let parents = self.path.relative().rsplit_once('/').map_or("", |(parents, _)| parents);
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            dir.push(part);
            v2::pass_controllers_down(&dir);
        }
    }

    fn place(&self, pid: u32) -> Result<(), CgroupError> {
        let file = self.v2_dir().unwrap_or_default().join("cgroup.procs");
        write(&file, &pid.to_string()).map_err(failed("write", &file))
    }

    /// The unit of this cgroup and who keeps it, if it is systemd's.
    pub(crate) fn unit(&self) -> Option<(&Scopes, &str)> {
        let is_unit = unit::is_scope(&self.path) || unit::is_slice(&self.path);
        let scopes = self.scopes.as_deref().filter(|_| is_unit)?;
        Some((scopes, unit::split(&self.path).1))
    }

    pub(crate) fn tell_systemd(&self, resources: &Resources) -> Result<(), CgroupError> {
        let Some((scopes, unit)) = self.unit() else { return Ok(()) };
        let properties = unit::limits(resources);
        if properties.is_empty() { Ok(()) } else { scopes.systemd.set(unit, &properties) }
    }

    /// Waits for systemd to remove the cgroup of a unit in which nothing runs.
    pub(crate) fn stop_unit(&self) -> Result<(), CgroupError> {
        let Some((scopes, unit)) = self.unit() else { return Ok(()) };
        // Stopping one that has processes would wait for them, for minutes.
        if !wait_until(REMOVE_LIMIT, || !self.is_populated()) {
            let waited_ms = u64::try_from(REMOVE_LIMIT.as_millis()).unwrap_or(u64::MAX);
            return Err(CgroupError::Busy { path: self.path.as_str().into(), waited_ms });
        }
        scopes.systemd.stop(unit)
    }

    /// Stops a slice in which there is nothing, not even an empty cgroup.
    pub(crate) fn stop_slice_if_empty(&self) {
        let Some((scopes, unit)) = self.unit() else { return };
        let Some(dir) = self.v2_dir() else { return };
        let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>());
        let has_below = entries
            .unwrap_or_default()
            .iter()
            .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        if has_below || self.is_populated() {
            return;
        }
        if let Err(error) = scopes.systemd.stop(unit) {
            tracing::warn!(unit, error = %with_cause(&error), "a slice remains");
            return;
        }
        forget_limits(unit);
    }

    fn is_populated(&self) -> bool {
        let events = self.v2_dir().unwrap_or_default().join("cgroup.events");
        let text = read(&events).ok().flatten();
        text.and_then(|text| value_of(&text, "populated")).is_some_and(|value| value != 0)
    }
}

/// Takes away what systemd kept of the limits of a slice that is gone.
fn forget_limits(unit: &str) {
    let dir = std::path::Path::new(KEPT_LIMITS).join(format!("{unit}.d"));
    for name in unit::LIMITS {
        let _ = fs::remove_file(dir.join(format!("50-{name}.conf")));
    }
    // What somebody else has set stays.
    let _ = fs::remove_dir(dir);
}

fn with_cause(error: &CgroupError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

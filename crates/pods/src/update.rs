//! UpdateContainerResources: new limits for a container, all or none.
//!
//! What is zero or empty stays as it is. The limits are the kernel's at once, and the record's
//! before the call is answered, so that another daemon and a later start know them.

use std::sync::Arc;

use cgroups::{Cgroup, Resources};
use tracing::{info, warn};
use types::{ContainerId, HugepageLimit, LinuxResources};

use crate::{
    error::{Error, Result},
    record::{ContainerRecord, ContainerState},
    service::{Inner, Pods, blocking},
    spec,
    task::{Command, PodTask},
};

impl Pods {
    /// Changes a container's limits.
    ///
    /// # Errors
    /// Fails where the container is unknown or has ended, a limit is out of range or below what
    /// is in use, or the kernel refuses one; then all limits are as they were.
    pub async fn update_container(&self, id: &str, resources: LinuxResources) -> Result<()> {
        let (record, handle) = self.owned(id)?.ok_or_else(|| Error::NoContainer(id.to_owned()))?;
        let id = record.id.clone();
        handle
            .ask(|reply| Command::Update { id, resources: Box::new(resources), reply })
            .await
            .unwrap_or_else(|| Err(Error::NoContainer(record.id.to_string())))
    }
}

impl PodTask {
    /// Changes a container's limits.
    pub(crate) async fn update_container(
        &mut self,
        id: &ContainerId,
        asked: LinuxResources,
    ) -> Result<()> {
        let slot = self.containers.get(id).ok_or_else(|| Error::NoContainer(id.to_string()))?;
        let record = slot.record.clone();
        let runs = match record.state {
            ContainerState::Created => false,
            ContainerState::Running { .. } => true,
            ContainerState::Starting | ContainerState::Exited(_) | ContainerState::Unknown => {
                return Err(Error::WrongState(format!(
                    "container {id} has ended: its resources cannot be changed"
                )));
            }
        };
        let version = spec::cgroup_version(&self.inner);
        container_spec::validate_resources(&asked, version)
            .map_err(|error| Error::Invalid(telemetry::chain(&error)))?;
        let merged = merged(&record.config.resources, &asked);
        container_spec::validate_resources(&merged, version)
            .map_err(|error| Error::Invalid(telemetry::chain(&error)))?;
        let (inner, file) = (self.inner.clone(), self.files.bundle(id).join(spec::SPEC_FILE));
        let new = merged.clone();
        blocking(move || {
            if runs {
                apply(&inner, &record, &asked, &new)?;
            }
            // A start that is still to come goes by the specification.
            spec::rewrite_resources(&file, &new, spec::cgroup_version(&inner))
        })
        .await?;
        self.change_container(id, |record| record.config.resources = merged).await;
        info!(container = %id, "its resources were changed");
        Ok(())
    }
}

/// The limits in force after a change: what is asked for in the place of what was.
pub(crate) fn merged(old: &LinuxResources, asked: &LinuxResources) -> LinuxResources {
    let LinuxResources {
        cpu_period_us,
        cpu_quota_us,
        cpu_shares,
        memory_limit_bytes,
        oom_score_adj,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
        unified,
        memory_swap_limit_bytes,
    } = asked;
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: &String, old: &String| if new.is_empty() { old.clone() } else { new.clone() };
    let mut pages: Vec<HugepageLimit> = old.hugepage_limits.clone();
    for page in hugepage_limits {
        pages.retain(|known| known.page_size != page.page_size);
        pages.push(page.clone());
    }
    let mut files = old.unified.clone();
    files.extend(unified.clone());
    LinuxResources {
        cpu_period_us: number(*cpu_period_us, old.cpu_period_us),
        cpu_quota_us: number(*cpu_quota_us, old.cpu_quota_us),
        cpu_shares: number(*cpu_shares, old.cpu_shares),
        memory_limit_bytes: number(*memory_limit_bytes, old.memory_limit_bytes),
        oom_score_adj: number(*oom_score_adj, old.oom_score_adj),
        cpuset_cpus: text(cpuset_cpus, &old.cpuset_cpus),
        cpuset_mems: text(cpuset_mems, &old.cpuset_mems),
        hugepage_limits: pages,
        unified: files,
        memory_swap_limit_bytes: number(*memory_swap_limit_bytes, old.memory_swap_limit_bytes),
    }
}

/// Applies a change to a running container, or takes back what of it was applied.
fn apply(
    inner: &Arc<Inner>,
    record: &ContainerRecord,
    asked: &LinuxResources,
    new: &LinuxResources,
) -> Result<()> {
    let what = format!("change the limits of {}", record.id);
    let group = open(inner, &record.cgroup, &what)?;
    if !group.exists() {
        return Err(Error::WrongState(format!("container {} is about to end", record.id)));
    }
    let old = &record.config.resources;
    change_limits(&group, &what, old, asked, new)?;
    if asked.oom_score_adj != 0 && asked.oom_score_adj != old.oom_score_adj {
        set_oom_scores(&group, asked.oom_score_adj);
    }
    Ok(())
}

pub(crate) fn open(inner: &Inner, path: &str, what: &str) -> Result<Cgroup> {
    let path = path.parse().map_err(|source| Error::Cgroup { what: what.to_owned(), source })?;
    Ok(inner.services.cgroups.open(&path))
}

/// Sets those limits of a cgroup that are asked for; where one is refused all are as they were.
/// `old` and `new` are all limits, before and after.
pub(crate) fn change_limits(
    group: &Cgroup,
    what: &str,
    old: &LinuxResources,
    asked: &LinuxResources,
    new: &LinuxResources,
) -> Result<()> {
    check_use(group, asked)?;
    let mut change = Resources::from(asked);
    if change.memory_swap_limit.is_some() || change.memory_limit.is_some() {
        // On v2 swap is counted apart: what is left for it follows from both.
        let both = Resources::from(new);
        (change.memory_limit, change.memory_swap_limit) =
            (both.memory_limit, both.memory_swap_limit);
    }
    match group.update(&change) {
        Ok(skipped) => {
            for limit in skipped {
                warn!(limit = %limit.limit, "not limited: {}", limit.reason);
            }
            Ok(())
        }
        Err(source) => {
            if let Err(undo) = group.update(&undoing(&change, old)) {
                warn!(error = %telemetry::chain(&undo), "a refused change of limits was not taken back whole");
            }
            Err(Error::Cgroup { what: what.to_owned(), source })
        }
    }
}

/// What takes a change back: the old limit of each that was to change, or none.
fn undoing(change: &Resources, old: &LinuxResources) -> Resources {
    let was = Resources::from(old);
    const UNLIMITED: i64 = -1;
    const DEFAULT_SHARES: u64 = 1024;
    const DEFAULT_PERIOD_US: u64 = 100_000;
    Resources {
        memory_limit: change.memory_limit.map(|_| was.memory_limit.unwrap_or(UNLIMITED)),
        memory_swap_limit: change
            .memory_swap_limit
            .map(|_| was.memory_swap_limit.unwrap_or(UNLIMITED)),
        cpu_shares: change.cpu_shares.map(|_| was.cpu_shares.unwrap_or(DEFAULT_SHARES)),
        cpu_quota_us: change.cpu_quota_us.map(|_| was.cpu_quota_us.unwrap_or(UNLIMITED)),
        cpu_period_us: change.cpu_period_us.map(|_| was.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US)),
        cpuset_cpus: change.cpuset_cpus.as_ref().and(was.cpuset_cpus),
        cpuset_mems: change.cpuset_mems.as_ref().and(was.cpuset_mems),
        hugepages: was.hugepages,
        unified: was.unified,
        ..Resources::default()
    }
}

/// A limit of memory below what is in use would have the kernel kill: it is refused.
fn check_use(group: &Cgroup, asked: &LinuxResources) -> Result<()> {
    let Ok(limit) = u64::try_from(asked.memory_limit_bytes) else { return Ok(()) };
    if limit == 0 {
        return Ok(());
    }
    let memory = group.stats().ok().and_then(|stats| stats.memory);
    match memory {
        // What the kernel can drop at once does not count.
        Some(memory) if memory.working_set > limit => Err(Error::WrongState(format!(
            "memory_limit_in_bytes {limit} is below the {} bytes in use",
            memory.working_set
        ))),
        _ => Ok(()),
    }
}

/// Sets the score of all processes. What is not permitted here stays, as at a start.
fn set_oom_scores(group: &Cgroup, score: i64) {
    for pid in group.pids().unwrap_or_default() {
        if let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(pid, score, %error, "oom_score_adj stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_stays() {
        let old = LinuxResources {
            cpu_shares: 512,
            memory_limit_bytes: 100,
            cpuset_cpus: "0".to_owned(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit_bytes: 1 }],
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            ..LinuxResources::default()
        };
        assert_eq!(merged(&old, &LinuxResources::default()), old);
        let asked = LinuxResources {
            cpu_shares: 1024,
            cpuset_mems: "0".to_owned(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit_bytes: 2 }],
            unified: [("memory.low".to_owned(), "2".to_owned())].into(),
            ..LinuxResources::default()
        };
        let new = merged(&old, &asked);
        assert_eq!((new.cpu_shares, new.memory_limit_bytes), (1024, 100));
        assert_eq!((new.cpuset_cpus.as_str(), new.cpuset_mems.as_str()), ("0", "0"));
        assert_eq!((new.hugepage_limits.len(), new.hugepage_limits[0].limit_bytes), (1, 2));
        assert_eq!(new.unified.len(), 2);
    }

    #[test]
    fn only_what_was_to_change_is_taken_back() {
        let old = LinuxResources { cpu_shares: 512, ..LinuxResources::default() };
        let change =
            Resources { cpu_shares: Some(2048), memory_limit: Some(1), ..Resources::default() };
        let back = undoing(&change, &old);
        assert_eq!((back.cpu_shares, back.memory_limit), (Some(512), Some(-1)));
        assert_eq!((back.cpu_quota_us, back.cpuset_cpus), (None, None));
    }
}

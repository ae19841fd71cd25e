//! UpdatePodSandboxResources: new resources for a pod as a whole.
//!
//! The kubelet has changed the pod's cgroup before it calls: that one is the kubelet's and is
//! left alone, for it knows what the sum does not say, such as a container without a limit. A
//! cgroup that Corten made for the pod gets the limits, the overhead added. Either way the
//! record has them before the call is answered.

use tracing::info;
use types::LinuxResources;

use crate::{
    error::{Error, Result},
    service::{Pods, blocking},
    spec,
    task::{Command, PodTask},
    update,
};

/// The period of a CPU quota without one.
const USUAL_PERIOD_US: i64 = 100_000;

/// What a pod is to have. What is zero or empty in either stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodResources {
    /// What the pod costs beside its containers.
    pub overhead: Option<LinuxResources>,
    /// The sum of its containers'.
    pub resources: Option<LinuxResources>,
}

impl Pods {
    /// Changes the resources of a pod as a whole.
    ///
    /// # Errors
    /// Fails where the sandbox is unknown or not ready, a limit is out of range or below what is
    /// in use, or the kernel refuses one; then all limits are as they were.
    pub async fn update_sandbox(&self, id: &str, change: PodResources) -> Result<()> {
        let found = self.inner.index.sandbox(id)?;
        let (record, handle) = found.ok_or_else(|| Error::NoSandbox(id.to_owned()))?;
        crate::log::name_sandbox(&record);
        handle
            .ask(|reply| Command::UpdateSandbox { change: Box::new(change), reply })
            .await
            .unwrap_or_else(|| Err(Error::NoSandbox(record.id.to_string())))
    }
}

impl PodTask {
    /// Changes the resources of the pod as a whole.
    pub(crate) async fn update_sandbox(&mut self, asked: PodResources) -> Result<()> {
        if !self.record.is_ready() {
            return Err(Error::WrongState(format!(
                "sandbox {} is not ready: its resources cannot be changed",
                self.id()
            )));
        }
        let config = &self.record.config;
        let overhead = with(config.overhead.as_ref(), asked.overhead.as_ref());
        let resources = with(config.resources.as_ref(), asked.resources.as_ref());
        let version = spec::cgroup_version(&self.inner);
        for all in [&asked.overhead, &asked.resources, &overhead, &resources] {
            let Some(all) = all else { continue };
            container_spec::validate_resources(all, version)
                .map_err(|error| Error::Invalid(telemetry::chain(&error)))?;
        }
        let mut limits = self.record.limits.clone();
        if self.record.owns_cgroup_parent {
            let none = LinuxResources::default();
            let sum = sum(resources.as_ref().unwrap_or(&none), overhead.as_ref().unwrap_or(&none));
            let change = asked_of(sum, &asked);
            let new = update::merged(&limits, &change);
            self.change_pod_limits(change, new.clone()).await?;
            limits = new;
        }
        self.update(|record| {
            record.config.overhead = overhead;
            record.config.resources = resources;
            record.limits = limits;
        })
        .await;
        info!("the pod's resources were changed");
        Ok(())
    }

    async fn change_pod_limits(&self, change: LinuxResources, new: LinuxResources) -> Result<()> {
        let (inner, record) = (self.inner.clone(), self.record.clone());
        blocking(move || {
            let what = format!("change the limits of sandbox {}", record.id);
            let group = update::open(&inner, &record.cgroup_parent, &what)?;
            // It comes with the first container, which then sets them.
            if !group.exists() {
                return Ok(());
            }
            update::change_limits(&group, &what, &record.limits, &change, &new)
        })
        .await
    }

    /// Sets the limits that the pod's own cgroup is to have, once it is there.
    pub(crate) async fn limit_pod(&self) -> Result<()> {
        let limits = self.record.limits.clone();
        if limits == LinuxResources::default() {
            return Ok(());
        }
        self.change_pod_limits(limits.clone(), limits).await
    }
}

fn with(old: Option<&LinuxResources>, asked: Option<&LinuxResources>) -> Option<LinuxResources> {
    match (old, asked) {
        (Some(old), Some(asked)) => Some(update::merged(old, asked)),
        (one, other) => other.or(one).cloned(),
    }
}

/// What the pod's cgroup is limited to: the containers' sum and the overhead. Where the sum has
/// no limit the overhead is none either.
fn sum(resources: &LinuxResources, overhead: &LinuxResources) -> LinuxResources {
    let both = |sum: i64, more: i64| match (sum, more) {
        (0, _) => 0,
        (sum, more) if sum < 0 || more < 0 => -1,
        (sum, more) => sum.saturating_add(more),
    };
    let period = |asked: i64| if asked > 0 { asked } else { USUAL_PERIOD_US };
    // Of another period's length the same part.
    let quota = match overhead.cpu_quota_us {
        more if more > 0 => {
            let scaled = i128::from(more) * i128::from(period(resources.cpu_period_us))
                / i128::from(period(overhead.cpu_period_us));
            i64::try_from(scaled).unwrap_or(i64::MAX)
        }
        more => more,
    };
    LinuxResources {
        cpu_quota_us: both(resources.cpu_quota_us, quota),
        cpu_shares: both(resources.cpu_shares, overhead.cpu_shares),
        memory_limit_bytes: both(resources.memory_limit_bytes, overhead.memory_limit_bytes),
        memory_swap_limit_bytes: both(
            resources.memory_swap_limit_bytes,
            overhead.memory_swap_limit_bytes,
        ),
        // Of the processes, not of the cgroup.
        oom_score_adj: 0,
        ..resources.clone()
    }
}

/// What of all limits was asked for now.
fn asked_of(all: LinuxResources, asked: &PodResources) -> LinuxResources {
    let none = LinuxResources::default();
    let resources = asked.resources.as_ref().unwrap_or(&none);
    let overhead = asked.overhead.as_ref().unwrap_or(&none);
    let number = |one: i64, other: i64, all: i64| if one == 0 && other == 0 { 0 } else { all };
    LinuxResources {
        // A quota's parts follow from the length of the period.
        cpu_period_us: resources.cpu_period_us,
        cpu_quota_us: number(
            resources.cpu_quota_us | resources.cpu_period_us,
            overhead.cpu_quota_us,
            all.cpu_quota_us,
        ),
        cpu_shares: number(resources.cpu_shares, overhead.cpu_shares, all.cpu_shares),
        memory_limit_bytes: number(
            resources.memory_limit_bytes,
            overhead.memory_limit_bytes,
            all.memory_limit_bytes,
        ),
        memory_swap_limit_bytes: number(
            resources.memory_swap_limit_bytes,
            overhead.memory_swap_limit_bytes,
            all.memory_swap_limit_bytes,
        ),
        oom_score_adj: 0,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources.hugepage_limits.clone(),
        unified: resources.unified.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(memory: i64, quota: i64, period: i64) -> LinuxResources {
        LinuxResources {
            memory_limit_bytes: memory,
            cpu_quota_us: quota,
            cpu_period_us: period,
            ..LinuxResources::default()
        }
    }

    #[test]
    fn the_overhead_is_added_to_what_is_limited() {
        for (sum_of, overhead, memory, quota) in [
            (resources(100, 20_000, 100_000), resources(10, 1_000, 50_000), 110, 22_000),
            (resources(100, 20_000, 0), resources(0, 0, 0), 100, 20_000),
            (resources(0, 0, 0), resources(10, 1_000, 0), 0, 0),
            (resources(-1, -1, 0), resources(10, 1_000, 0), -1, -1),
            (resources(i64::MAX, 1, 0), resources(i64::MAX, -1, 0), i64::MAX, -1),
        ] {
            let all = sum(&sum_of, &overhead);
            assert_eq!((all.memory_limit_bytes, all.cpu_quota_us), (memory, quota), "{sum_of:?}");
        }
    }

    #[test]
    fn only_what_is_asked_for_changes() {
        let all = sum(&resources(100, 20_000, 0), &resources(10, 0, 0));
        let nothing = asked_of(all.clone(), &PodResources::default());
        assert_eq!(nothing, LinuxResources::default());
        let overhead = Some(resources(10, 0, 0));
        let change = asked_of(all.clone(), &PodResources { overhead, resources: None });
        assert_eq!((change.memory_limit_bytes, change.cpu_quota_us), (110, 0));
        let resources = Some(resources(0, 0, 50_000));
        let change = asked_of(all, &PodResources { overhead: None, resources });
        assert_eq!((change.memory_limit_bytes, change.cpu_quota_us), (0, 20_000));
        assert_eq!(change.cpu_period_us, 50_000);
    }
}

//! Limits by the files of cgroup v2 (kernel: admin-guide/cgroup-v2).

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use crate::{
    CgroupError, Resources, SkippedLimit, devices,
    files::{make, set, write},
};

/// Makes the directories of a path below the tree's root; with `delegate`, every
/// controller that is there is passed down to the last one.
pub(crate) fn create(
    root: &Path,
    relative: &str,
    delegate: bool,
    made: &mut Vec<PathBuf>,
) -> Result<(), CgroupError> {
    let mut dir = root.to_owned();
    for part in relative.split('/') {
        if delegate {
            pass_controllers_down(&dir);
        }
        dir.push(part);
        if make(&dir)? {
            made.push(dir.clone());
        }
    }
    Ok(())
}

/// A controller that cannot be passed down (threads of the parent, a delegation that
/// ends here) is missing in the cgroup below, and its limits are then reported as
/// skipped: no error here.
pub(crate) fn pass_controllers_down(dir: &Path) {
    let here = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let below = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in here.split_whitespace().filter(|c| !below.split_whitespace().any(|b| b == *c))
    {
        let _ = write(&dir.join("cgroup.subtree_control"), &format!("+{controller}"));
    }
}

/// Checks the files that are named by the caller: limits, and none that moves, kills or
/// delegates.
pub(crate) fn check(resources: &Resources) -> Result<(), CgroupError> {
    let bad = |key: &str| key.contains('/') || key.starts_with("cgroup.") || !key.contains('.');
    match resources.unified.iter().find(|(key, _)| bad(key)) {
        Some((key, value)) => {
            Err(CgroupError::BadValue { limit: key.clone(), value: value.clone() })
        }
        None => Ok(()),
    }
}

/// Applies limits that were checked to a cgroup that exists.
pub(crate) fn apply(
    dir: &Path,
    resources: &Resources,
    skipped: &mut Vec<SkippedLimit>,
) -> Result<(), CgroupError> {
    let amount = |v: i64| if v < 0 { "max".to_owned() } else { v.to_string() };
    let mut one = |file: &str, value: Option<String>| -> Result<(), CgroupError> {
        let Some(value) = value else { return Ok(()) };
        let path = dir.join(file);
        if path.exists() {
            return set(&path, &value);
        }
        let reason = format!("the kernel has no {}", path.display());
        skipped.push(SkippedLimit { limit: format!("{file} {value}"), reason });
        Ok(())
    };
    one("memory.max", resources.memory_limit.map(amount))?;
    one("memory.swap.max", swap_alone(resources).map(amount))?;
    one("memory.low", resources.memory_reservation.map(amount))?;
    one("cpu.weight", resources.cpu_shares.filter(|s| *s != 0).map(|s| weight(s).to_string()))?;
    one("cpu.max", cpu_max(resources))?;
    one("cpuset.cpus", resources.cpuset_cpus.clone())?;
    one("cpuset.mems", resources.cpuset_mems.clone())?;
    one("pids.max", resources.pids_limit.map(amount))?;
    for page in &resources.hugepages {
        one(&format!("hugetlb.{}.max", page.page_size), Some(page.limit_bytes.to_string()))?;
    }
    for (key, value) in &resources.unified {
        one(key, Some(value.clone()))?;
    }
    if let Some(rules) = &resources.devices {
        let failed =
            |action| move |source| CgroupError::Devices { action, path: dir.to_owned(), source };
        let cgroup = File::open(dir).map_err(failed("open"))?;
        devices::replace(cgroup.as_fd(), rules).map_err(failed("set"))?;
    }
    Ok(())
}

/// v1 and OCI count memory and swap together, v2 counts swap alone.
pub(crate) fn swap_alone(resources: &Resources) -> Option<i64> {
    match (resources.memory_swap_limit?, resources.memory_limit) {
        (both, _) if both < 0 => Some(-1),
        (both, Some(memory)) if memory >= 0 => Some((both - memory).max(0)),
        _ => None,
    }
}

/// Shares 2 to 262144 to weights 1 to 10000, linearly, as runc does.
pub(crate) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn cpu_max(resources: &Resources) -> Option<String> {
    let quota = resources.cpu_quota_us;
    if quota.is_none() && resources.cpu_period_us.is_none() {
        return None;
    }
    let quota = match quota {
        Some(quota) if quota > 0 => quota.to_string(),
        _ => "max".to_owned(),
    };
    Some(match resources.cpu_period_us {
        Some(period) if period > 0 => format!("{quota} {period}"),
        _ => quota,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in
            [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn quota_and_swap_become_v2s_forms() {
        let r = |quota, period, memory, both| Resources {
            cpu_quota_us: quota,
            cpu_period_us: period,
            memory_limit: memory,
            memory_swap_limit: both,
            ..Resources::default()
        };
        assert_eq!(
            cpu_max(&r(Some(50_000), Some(100_000), None, None)).as_deref(),
            Some("50000 100000")
        );
        assert_eq!(cpu_max(&r(Some(-1), Some(100_000), None, None)).as_deref(), Some("max 100000"));
        assert_eq!(cpu_max(&r(None, None, None, None)), None);
        assert_eq!(swap_alone(&r(None, None, Some(100), Some(150))), Some(50));
        assert_eq!(swap_alone(&r(None, None, Some(100), Some(-1))), Some(-1));
        assert_eq!(swap_alone(&r(None, None, None, Some(150))), None);
    }

    #[test]
    fn limits_are_written_and_absent_files_reported() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("memory.max"), "max").unwrap();
        let resources =
            Resources { memory_limit: Some(4096), pids_limit: Some(7), ..Resources::default() };
        let mut skipped = Vec::new();
        apply(dir.path(), &resources, &mut skipped).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("memory.max")).unwrap(), "4096");
        assert_eq!(skipped.len(), 1, "{skipped:?}");
    }

    #[test]
    fn only_limits_are_taken_by_name() {
        for (key, good) in [
            ("memory.high", true),
            ("io.max", true),
            ("cgroup.freeze", false),
            ("cgroup.procs", false),
            ("../memory.max", false),
            ("tasks", false),
        ] {
            let unified = [(key.to_owned(), "1".to_owned())].into();
            assert_eq!(
                check(&Resources { unified, ..Resources::default() }).is_ok(),
                good,
                "{key}"
            );
        }
    }
}

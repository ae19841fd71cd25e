//! Limits by the files of cgroup v1 (kernel: admin-guide/cgroup-v1).

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    CgroupError, CgroupPath, DeviceKind, DeviceRule, Resources, SkippedLimit,
    files::{failed, make, read_number, set},
    layout::Layout,
};

/// Makes the directories of `path` in every v1 hierarchy.
pub(crate) fn create(
    layout: &Layout,
    path: &CgroupPath,
    made: &mut Vec<PathBuf>,
) -> Result<(), CgroupError> {
    for hierarchy in &layout.v1 {
        let dir = hierarchy.mount.join(path.relative());
        make_below(&hierarchy.mount, &dir, made)?;
        if hierarchy.controllers.iter().any(|c| c == "cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(&hierarchy.mount, &dir, file)?;
            }
        }
    }
    Ok(())
}

/// Makes a directory below `top`, and its parents only where they are missing: one call in most
/// hierarchies of most pods.
fn make_below(top: &Path, dir: &Path, made: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
    let is_new = match make(dir) {
        Err(error) if error.is_gone() && dir != top => {
            make_below(top, dir.parent().unwrap_or(top), made)?;
            make(dir)?
        }
        other => other?,
    };
    if is_new {
        made.push(dir.to_owned());
    }
    Ok(())
}

/// A new cpuset is empty and takes no process: it gets what its parent has.
fn inherit(top: &Path, dir: &Path, file: &str) -> Result<String, CgroupError> {
    let path = dir.join(file);
    let own = fs::read_to_string(&path).map_err(failed("read", &path))?;
    let own = own.trim();
    if !own.is_empty() || dir == top {
        return Ok(own.to_owned());
    }
    let parents = inherit(top, dir.parent().unwrap_or(top), file)?;
    set(&path, &parents)?;
    Ok(parents)
}

/// Applies limits to a cgroup that exists.
pub(crate) fn apply(
    layout: &Layout,
    path: &CgroupPath,
    resources: &Resources,
    skipped: &mut Vec<SkippedLimit>,
) -> Result<(), CgroupError> {
    let limits = Limits { layout, path };
    limits.memory(resources, skipped)?;
    limits.one("cpu", "cpu.shares", resources.cpu_shares.map(|v| v.to_string()), skipped)?;
    limits.bandwidth(resources, skipped)?;
    limits.one("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone(), skipped)?;
    limits.one("cpuset", "cpuset.mems", resources.cpuset_mems.clone(), skipped)?;
    let pids = resources.pids_limit.map(|v| if v < 0 { "max".to_owned() } else { v.to_string() });
    limits.one("pids", "pids.max", pids, skipped)?;
    for page in &resources.hugepages {
        let file = format!("hugetlb.{}.limit_in_bytes", page.page_size);
        limits.one("hugetlb", &file, Some(page.limit_bytes.to_string()), skipped)?;
    }
    if let Some(rules) = &resources.devices {
        limits.devices(rules, skipped)?;
    }
    for key in resources.unified.keys() {
        skipped.push(SkippedLimit {
            limit: key.clone(),
            reason: "the machine has cgroup v1".to_owned(),
        });
    }
    Ok(())
}

struct Limits<'a> {
    layout: &'a Layout,
    path: &'a CgroupPath,
}

impl Limits<'_> {
    fn one(
        &self,
        controller: &str,
        file: &str,
        value: Option<String>,
        skipped: &mut Vec<SkippedLimit>,
    ) -> Result<(), CgroupError> {
        let Some(value) = value else { return Ok(()) };
        let file = self.layout.v1_dir(controller, self.path).map(|dir| dir.join(file));
        match file {
            Some(file) if file.exists() => set(&file, &value),
            other => {
                let reason = match other {
                    Some(file) => format!("the kernel has no {}", file.display()),
                    None => format!("the machine has no {controller} controller"),
                };
                skipped.push(SkippedLimit { limit: format!("{controller} limit {value}"), reason });
                Ok(())
            }
        }
    }

    /// The kernel refuses a period that makes too much of the quota that is still set:
    /// then the new quota goes first.
    fn bandwidth(
        &self,
        resources: &Resources,
        skipped: &mut Vec<SkippedLimit>,
    ) -> Result<(), CgroupError> {
        let period = resources.cpu_period_us.map(|v| v.to_string());
        let quota = resources.cpu_quota_us.map(|v| v.to_string());
        let early = self.one("cpu", "cpu.cfs_period_us", period.clone(), skipped);
        self.one("cpu", "cpu.cfs_quota_us", quota.clone(), skipped)?;
        match early {
            Err(_) if quota.is_some() => self.one("cpu", "cpu.cfs_period_us", period, skipped),
            result => result,
        }
    }

    /// The limit of memory and swap together must never be below that of memory: when
    /// it grows it is written first.
    fn memory(
        &self,
        resources: &Resources,
        skipped: &mut Vec<SkippedLimit>,
    ) -> Result<(), CgroupError> {
        let limit = ("memory.limit_in_bytes", resources.memory_limit.map(|v| v.to_string()));
        let both =
            ("memory.memsw.limit_in_bytes", resources.memory_swap_limit.map(|v| v.to_string()));
        let grows = match (self.layout.v1_dir("memory", self.path), resources.memory_limit) {
            (Some(dir), Some(new)) if both.1.is_some() => {
                let now = read_number(&dir.join(both.0))?.unwrap_or(0);
                u64::try_from(new).map_or(true, |new| new > now)
            }
            _ => false,
        };
        let order = if grows { [both, limit] } else { [limit, both] };
        for (file, value) in order {
            self.one("memory", file, value, skipped)?;
        }
        let soft = resources.memory_reservation.map(|v| v.to_string());
        self.one("memory", "memory.soft_limit_in_bytes", soft, skipped)
    }

    fn devices(
        &self,
        rules: &[DeviceRule],
        skipped: &mut Vec<SkippedLimit>,
    ) -> Result<(), CgroupError> {
        let Some(dir) = self.layout.v1_dir("devices", self.path) else {
            let reason = "the machine has no devices controller".to_owned();
            skipped.push(SkippedLimit { limit: "device rules".to_owned(), reason });
            return Ok(());
        };
        set(&dir.join("devices.deny"), "a")?;
        for rule in rules {
            let file = if rule.allow { "devices.allow" } else { "devices.deny" };
            set(&dir.join(file), &rule_text(rule))?;
        }
        Ok(())
    }
}

fn rule_text(rule: &DeviceRule) -> String {
    let kind = match rule.kind {
        DeviceKind::All => return "a".to_owned(),
        DeviceKind::Char => 'c',
        DeviceKind::Block => 'b',
    };
    let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    let mut access = String::new();
    for (set, letter) in
        [(rule.access.read, 'r'), (rule.access.write, 'w'), (rule.access.mknod, 'm')]
    {
        if set {
            access.push(letter);
        }
    }
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

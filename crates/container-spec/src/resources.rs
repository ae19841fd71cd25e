//! Limits.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxResources,
};
use types::LinuxResources as Asked;

use crate::{
    CgroupVersion, SpecError,
    text::{check_count, shown},
};

/// How many cgroup files or sizes of huge pages may be set.
pub const MAX_RESOURCE_ENTRIES: usize = 256;
/// The longest list of CPUs, or value of a cgroup file: what the kernel reads at once.
pub const MAX_RESOURCE_BYTES: usize = 4095;

/// Checks limits and brings them into a spec's form. Zero and empty mean "not set".
///
/// # Errors
///
/// As [`validate_resources`].
pub fn resources(
    asked: &Asked,
    version: CgroupVersion,
    devices: Vec<LinuxDeviceCgroup>,
) -> Result<LinuxResources, SpecError> {
    validate_resources(asked, version)?;
    let set = |value: i64| (value != 0).then_some(value);
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut memory = LinuxMemory::default();
    memory.set_limit(set(asked.memory_limit_bytes));
    memory.set_swap(set(asked.memory_swap_limit_bytes));
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive(asked.cpu_shares));
    cpu.set_quota(set(asked.cpu_quota_us));
    cpu.set_period(positive(asked.cpu_period_us));
    cpu.set_cpus(text(&asked.cpuset_cpus));
    cpu.set_mems(text(&asked.cpuset_mems));
    let pages = asked.hugepage_limits.iter().map(|limit| {
        let mut page = LinuxHugepageLimit::default();
        page.set_page_size(limit.page_size.clone());
        // More than 8 EiB is no limit at all.
        page.set_limit(i64::try_from(limit.limit_bytes).unwrap_or(i64::MAX));
        page
    });
    let pages: Vec<_> = pages.collect();
    let unified: HashMap<String, String> =
        asked.unified.iter().map(|(file, value)| (file.clone(), value.clone())).collect();
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(devices));
    resources.set_memory((memory != LinuxMemory::default()).then_some(memory));
    resources.set_cpu((cpu != LinuxCpu::default()).then_some(cpu));
    resources.set_hugepage_limits((!pages.is_empty()).then_some(pages));
    resources.set_unified((!unified.is_empty()).then_some(unified));
    Ok(resources)
}

/// Checks limits, of a new container or of one that is to be changed.
///
/// # Errors
///
/// A limit is out of range, or a list or file is not one.
pub fn validate_resources(asked: &Asked, version: CgroupVersion) -> Result<(), SpecError> {
    for (what, value, low, high) in [
        ("cpu_period", asked.cpu_period_us, 0, i64::MAX),
        ("cpu_quota", asked.cpu_quota_us, -1, i64::MAX),
        ("cpu_shares", asked.cpu_shares, 0, i64::MAX),
        ("memory_limit_in_bytes", asked.memory_limit_bytes, -1, i64::MAX),
        ("memory_swap_limit_in_bytes", asked.memory_swap_limit_bytes, -1, i64::MAX),
        ("oom_score_adj", asked.oom_score_adj, -1000, 1000),
    ] {
        if !(low..=high).contains(&value) {
            return Err(SpecError::Range { what, value, low, high });
        }
    }
    let (memory, both) = (asked.memory_limit_bytes, asked.memory_swap_limit_bytes);
    if memory > 0 && both > 0 && both < memory {
        let what = "memory_swap_limit_in_bytes";
        return Err(SpecError::Range { what, value: both, low: memory, high: i64::MAX });
    }
    let list = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-');
    check("cpuset_cpus", &asked.cpuset_cpus, list)?;
    check("cpuset_mems", &asked.cpuset_mems, list)?;
    check_count("huge page limits", asked.hugepage_limits.len(), MAX_RESOURCE_ENTRIES)?;
    for limit in &asked.hugepage_limits {
        let what = "size of huge pages";
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| limit.page_size.strip_suffix(unit));
        if digits.is_none_or(str::is_empty) {
            return Err(SpecError::Characters { what, text: shown(&limit.page_size) });
        }
        check(what, digits.unwrap_or_default(), |c| c.is_ascii_digit())?;
    }
    validate_unified(asked, version)
}

/// Files of cgroup v2: names of files, never paths, and never those that move processes or
/// change which controllers there are.
fn validate_unified(asked: &Asked, version: CgroupVersion) -> Result<(), SpecError> {
    check_count("unified resources", asked.unified.len(), MAX_RESOURCE_ENTRIES)?;
    if version == CgroupVersion::V1 && !asked.unified.is_empty() {
        return Err(SpecError::UnifiedOnV1);
    }
    for (file, value) in &asked.unified {
        let what = "file of unified resources";
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        check(what, file, name)?;
        let of_controller = file.split_once('.').is_some_and(|(controller, rest)| {
            !controller.is_empty()
                && controller != "cgroup"
                && !rest.starts_with('.')
                && !rest.is_empty()
        });
        if !of_controller {
            return Err(SpecError::Characters { what, text: shown(file) });
        }
        check("value of unified resources", value, |c| c != '\0')?;
    }
    Ok(())
}

fn check(what: &'static str, text: &str, good: impl Fn(char) -> bool) -> Result<(), SpecError> {
    check_count(what, text.len(), MAX_RESOURCE_BYTES)?;
    if text.chars().all(good) {
        Ok(())
    } else {
        Err(SpecError::Characters { what, text: shown(text) })
    }
}

//! systemd's view of cgroups: names of slices and scopes, and limits as properties of
//! units (systemd.slice(5), systemd.resource-control(5)).

use zbus::Variant;

use crate::{CgroupError, CgroupPath, Resources, path::cut, v2};

/// A property of a unit.
pub(crate) type Property = (&'static str, Variant<'static>);

/// What the names of our scopes begin with.
const PREFIX: &str = "corten";
const SLICE: &str = ".slice";
const SCOPE: &str = ".scope";

/// The limits that are set of units.
pub(crate) const LIMITS: [&str; 12] = [
    "MemoryMax",
    "MemoryHigh",
    "MemoryLow",
    "MemoryMin",
    "MemorySwapMax",
    "CPUWeight",
    "CPUQuotaPeriodUSec",
    "CPUQuota",
    "CPUQuotaPerSecUSec",
    "TasksMax",
    "AllowedCPUs",
    "AllowedMemoryNodes",
];

/// "No limit", where systemd takes a number.
const INFINITY: u64 = u64::MAX;

/// The longest name of a unit.
const MAX_NAME: usize = 255;

/// The most processors and memory nodes that a mask may name.
const MAX_BIT: usize = 8192;

/// systemd rounds a quota of CPU time per second to this many microseconds.
const QUOTA_STEP_US: u64 = 10_000;

/// Returns the path of a slice by its name, of which each dash is a level:
/// `a-b.slice` is `/a.slice/a-b.slice`. Of a path only the last part counts, as for
/// the kubelet's other runtimes.
///
/// # Errors
/// Fails where it is no slice's name.
pub(crate) fn slice_path(slice: &str) -> Result<String, CgroupError> {
    let name = slice.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let bad = |reason| CgroupError::BadPath { path: cut(slice), reason };
    let stem = name.strip_suffix(SLICE).ok_or_else(|| bad("it is no slice's name"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\".contains(c);
    if stem.is_empty() || name.len() > MAX_NAME || !stem.chars().all(plain) {
        return Err(bad("it is no slice's name"));
    }
    let mut path = String::new();
    for (at, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
        if at == 0 || stem[..at].ends_with('-') {
            return Err(bad("a slice's name has an empty part"));
        }
        path.push('/');
        path.push_str(&stem[..at]);
        path.push_str(SLICE);
    }
    Ok(path)
}

/// Returns the name of the slice of one pod below a slice.
pub(crate) fn pod_slice(parent: &str, id: &str) -> String {
    let name = parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    format!("{}-pod{id}{SLICE}", name.strip_suffix(SLICE).unwrap_or(name))
}

/// Returns the name of the scope of what is called `name`.
pub(crate) fn scope(name: &str) -> String {
    format!("{PREFIX}-{name}{SCOPE}")
}

/// How a specification names a scope for programs that make it themselves.
pub(crate) fn for_specification(path: &CgroupPath) -> String {
    let (parent, scope) = split(path);
    let name = scope.strip_prefix(PREFIX).and_then(|s| s.strip_prefix('-')).unwrap_or(scope);
    format!("{parent}:{PREFIX}:{}", name.strip_suffix(SCOPE).unwrap_or(name))
}

/// The slice and the unit of a path.
pub(crate) fn split(path: &CgroupPath) -> (&str, &str) {
    let (parents, unit) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
    let slice = parents.rsplit('/').next().unwrap_or_default();
    (if slice.is_empty() { "-.slice" } else { slice }, unit)
}

pub(crate) fn is_scope(path: &CgroupPath) -> bool {
    path.as_str().ends_with(SCOPE)
}

pub(crate) fn is_slice(path: &CgroupPath) -> bool {
    path.as_str().ends_with(SLICE)
}

/// The properties of a new scope that are no limits.
pub(crate) fn scope_properties(path: &CgroupPath, pid: u32) -> Vec<Property> {
    let (slice, unit) = split(path);
    let description = format!("container {unit} of corten");
    let mut properties = vec![
        ("Description", Variant::from(description)),
        ("Slice", Variant::from(slice.to_owned())),
        ("PIDs", Variant::from(vec![pid])),
        // All controllers, and what is below is ours.
        ("Delegate", Variant::from(true)),
        // Shutting the machine down must not end containers before the kubelet does.
        ("DefaultDependencies", Variant::from(false)),
        // One that failed goes as well.
        ("CollectMode", Variant::from("inactive-or-failed")),
    ];
    let accounting = ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"];
    properties.extend(accounting.map(|name| (name, Variant::from(true))));
    properties
}

/// The limits that systemd must know of: it writes those that it does not know back to
/// "none" when it reloads.
pub(crate) fn limits(resources: &Resources) -> Vec<Property> {
    let mut properties = Vec::new();
    let mut one = |name, value: Option<u64>| {
        properties.extend(value.map(|value| (name, Variant::from(value))));
    };
    one("MemoryMax", resources.memory_limit.map(amount));
    one("MemorySwapMax", v2::swap_alone(resources).map(amount));
    one("MemoryLow", resources.memory_reservation.map(amount));
    one("CPUWeight", resources.cpu_shares.filter(|shares| *shares != 0).map(v2::weight));
    let (quota, period) = (resources.cpu_quota_us, resources.cpu_period_us);
    one("CPUQuotaPeriodUSec", period.filter(|period| *period > 0));
    one("CPUQuotaPerSecUSec", quota.map(|quota| quota_per_second(quota, period)));
    one("TasksMax", resources.pids_limit.map(amount));
    let mut mask = |name, list: Option<&String>| {
        let mask = list.and_then(|list| mask(list));
        properties.extend(mask.map(|mask| (name, Variant::from(mask))));
    };
    mask("AllowedCPUs", resources.cpuset_cpus.as_ref());
    mask("AllowedMemoryNodes", resources.cpuset_mems.as_ref());
    for (key, value) in &resources.unified {
        let Some(name) = known_as(key) else { continue };
        if let Some(value) = number(value) {
            properties.retain(|(other, _)| *other != name);
            properties.push((name, Variant::from(value)));
        }
    }
    properties
}

/// The property of a file that systemd writes as well.
fn known_as(key: &str) -> Option<&'static str> {
    Some(match key {
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "cpu.weight" => "CPUWeight",
        "pids.max" => "TasksMax",
        _ => return None,
    })
}

fn number(text: &str) -> Option<u64> {
    if text.trim() == "max" { Some(INFINITY) } else { text.trim().parse().ok() }
}

fn amount(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(INFINITY)
}

fn quota_per_second(quota: i64, period: Option<u64>) -> u64 {
    const SECOND_US: u64 = 1_000_000;
    const USUAL_PERIOD_US: u64 = 100_000;
    let Some(quota) = u64::try_from(quota).ok().filter(|quota| *quota > 0) else {
        return INFINITY;
    };
    let period = period.filter(|period| *period > 0).unwrap_or(USUAL_PERIOD_US);
    (quota.saturating_mul(SECOND_US) / period).max(1).next_multiple_of(QUOTA_STEP_US)
}

/// The bits of a list such as `0-3,7`, the lowest first. A list that is none is left to
/// the kernel, which says what is wrong with it.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for range in list.trim().split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX_BIT {
            return None;
        }
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0_u8);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    (!mask.is_empty()).then_some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_paths() {
        for (slice, path) in [
            ("a.slice", "/a.slice"),
            (
                "kubepods-besteffort-pod1_2.slice",
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice",
            ),
            ("/kubepods.slice/kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice"),
        ] {
            assert_eq!(slice_path(slice).unwrap(), path);
        }
        for bad in ["a", "", ".slice", "-.slice", "-a.slice", "a-.slice", "a--b.slice", "a b.slice"]
        {
            assert!(slice_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn units_have_names() {
        let pod = pod_slice("corten.slice", "12");
        assert_eq!(pod, "corten-pod12.slice");
        let path = CgroupPath::new(&slice_path(&pod).unwrap(), &scope("34")).unwrap();
        assert_eq!(split(&path), ("corten-pod12.slice", "corten-34.scope"));
        assert_eq!(for_specification(&path), "corten-pod12.slice:corten:34");
        assert!(is_scope(&path) && !is_slice(&path));
    }

    #[test]
    fn limits_are_properties() {
        let resources = Resources {
            memory_limit: Some(4096),
            memory_swap_limit: Some(-1),
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            cpuset_cpus: Some("0-1,9".to_owned()),
            pids_limit: Some(-1),
            unified: [("memory.max", "max"), ("memory.high", "7"), ("io.max", "x")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            ..Resources::default()
        };
        let found = limits(&resources);
        let value = |name| found.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone());
        for (name, expected) in [
            ("MemoryMax", Some(Variant::from(u64::MAX))),
            ("MemoryHigh", Some(Variant::from(7_u64))),
            ("MemorySwapMax", Some(Variant::from(u64::MAX))),
            ("CPUWeight", Some(Variant::from(39_u64))),
            ("CPUQuotaPerSecUSec", Some(Variant::from(500_000_u64))),
            ("CPUQuotaPeriodUSec", Some(Variant::from(100_000_u64))),
            ("AllowedCPUs", Some(Variant::from(vec![3_u8, 2]))),
            ("AllowedMemoryNodes", None),
            ("TasksMax", Some(Variant::from(u64::MAX))),
        ] {
            assert_eq!(value(name), expected, "{name}");
        }
        assert_eq!(quota_per_second(-1, None), u64::MAX);
        assert_eq!(quota_per_second(1000, Some(100_000)), 10_000);
        assert_eq!(quota_per_second(33_333, Some(100_000)), 340_000);
        assert_eq!(mask("x"), None);
    }
}

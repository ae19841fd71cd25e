//! What is limited, independent of the cgroup version. `None` means "leave as is".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits of a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory, in bytes; -1 is unlimited.
    pub memory_limit: Option<i64>,
    /// Memory and swap together, in bytes; -1 is unlimited.
    pub memory_swap_limit: Option<i64>,
    /// Memory below which nothing is reclaimed under pressure, in bytes.
    pub memory_reservation: Option<i64>,
    /// CPU shares, on v1's scale of 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// CPU time in each period, in microseconds; -1 is unlimited.
    pub cpu_quota_us: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// CPUs, as a list: `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 is unlimited.
    pub pids_limit: Option<i64>,
    /// Huge pages.
    pub hugepages: Vec<HugepageLimit>,
    /// Files of cgroup v2 and their values, written last.
    pub unified: BTreeMap<String, String>,
    /// Device rules, the last that matches wins, with nothing allowed before the
    /// first. `None` leaves all devices allowed.
    pub devices: Option<Vec<DeviceRule>>,
}

/// A limit of huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`, …
    pub page_size: String,
    /// In bytes.
    pub limit_bytes: u64,
}

/// Which nodes a device rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// All; the numbers are not looked at.
    All,
    /// Character devices.
    Char,
    /// Block devices.
    Block,
}

/// What a device rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAccess {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Making nodes.
    pub mknod: bool,
}

/// A device rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allowed, or refused.
    pub allow: bool,
    /// Which nodes.
    pub kind: DeviceKind,
    /// The major number, or all.
    pub major: Option<u32>,
    /// The minor number, or all.
    pub minor: Option<u32>,
    /// What with them.
    pub access: DeviceAccess,
}

impl DeviceAccess {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, mknod: true };

    /// Reads the form `rwm`; letters may be missing.
    pub fn parse(text: &str) -> Option<Self> {
        let mut access = Self { read: false, write: false, mknod: false };
        for letter in text.chars() {
            match letter {
                'r' => access.read = true,
                'w' => access.write = true,
                'm' => access.mknod = true,
                _ => return None,
            }
        }
        Some(access)
    }
}

impl From<&types::LinuxResources> for Resources {
    /// Zero and empty mean "not set" there. Pids and devices are not in it.
    fn from(from: &types::LinuxResources) -> Self {
        let set = |value: i64| (value != 0).then_some(value);
        let positive = |value: i64| u64::try_from(value).ok().filter(|v| *v > 0);
        let text = |value: &String| (!value.is_empty()).then(|| value.clone());
        Self {
            memory_limit: set(from.memory_limit_bytes),
            memory_swap_limit: set(from.memory_swap_limit_bytes),
            memory_reservation: None,
            cpu_shares: positive(from.cpu_shares),
            cpu_quota_us: set(from.cpu_quota_us),
            cpu_period_us: positive(from.cpu_period_us),
            cpuset_cpus: text(&from.cpuset_cpus),
            cpuset_mems: text(&from.cpuset_mems),
            pids_limit: None,
            hugepages: from
                .hugepage_limits
                .iter()
                .map(|limit| HugepageLimit {
                    page_size: limit.page_size.clone(),
                    limit_bytes: limit.limit_bytes,
                })
                .collect(),
            unified: from.unified.clone(),
            devices: None,
        }
    }
}

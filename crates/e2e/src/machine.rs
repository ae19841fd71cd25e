//! What this machine has, and which cases need more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use testing::Driver;

use crate::case::{Case, Need};

/// What was looked at once, before the run.
pub struct Machine {
    driver: Driver,
    capabilities: u64,
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// If it does not tell which capabilities there are.
    pub fn look(driver: Driver) -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("failed to read status")?;
        let bound = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let bound = bound.context("status names no capabilities")?.trim();
        let capabilities = u64::from_str_radix(bound, 16).context("bad capabilities")?;
        Ok(Self { driver, capabilities })
    }

    /// Takes out the cases that need something else, and says so.
    pub fn retain(&self, cases: &mut Vec<Case>) {
        let mut missing: BTreeMap<String, usize> = BTreeMap::new();
        cases.retain(|case| {
            let lacking = case.needs.iter().find(|need| !self.has(**need));
            if let Some(need) = lacking {
                *missing.entry(format!("{need:?}")).or_default() += 1;
            }
            lacking.is_none()
        });
        for (need, count) in missing {
            println!("not on this machine: {count} cases that need {need}");
        }
    }

    fn has(&self, need: Need) -> bool {
        let apparmor = || {
            fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with('Y'))
        };
        match need {
            Need::UnifiedCgroups => Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
            Need::Systemd => Path::new("/run/systemd/system").exists(),
            Need::SystemdDriver => self.driver == Driver::Systemd,
            Need::CgroupfsDriver => self.driver == Driver::Cgroupfs,
            Need::AppArmor => apparmor(),
            Need::NoAppArmor => !apparmor(),
            Need::FullCapabilities => self.capabilities == last_capabilities(),
            Need::Workshop => {
                Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/python-env")).exists()
            }
        }
    }
}

/// All capabilities that the kernel knows.
fn last_capabilities() -> u64 {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    let last = last.trim().parse::<u32>().unwrap_or(40);
    u64::MAX >> (63 - last.min(63))
}

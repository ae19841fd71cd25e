//! What this machine has, and which cases need more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use testing::{Containerd, Driver};

use crate::case::{Case, Need};

/// What cgroup v2, systemd, or root with all its capabilities might change: names of cases,
/// or what they begin with. In the guest all cases would take too long each time.
const CHOSEN: &[&str] = &[
    "container.life",
    "exec.timeout_",
    "handler.each_program_of_the_machine",
    "handler.life",
    "mount.propagation_from_the_host",
    "namespace.cgroups_are_its_own",
    "namespace.pid_of_the_pod_reaps",
    "pod.runs_stops_and_goes",
    "pod.stop_ends_its_containers",
    "resources.",
    "restart.exit_while_the_daemon_is_away",
    "restart.killed_daemon_finds_everything",
    "stop.ends_all_processes",
    "update.applies_at_once",
    "update.survives_the_daemon",
    "userns.cgroup_is_the_pods",
];

/// The same, and what an older kernel or AppArmor might change, where it makes no difference who
/// makes cgroups.
const CHOSEN_ONCE: &[&str] = &[
    "builtin.",
    "field.sysctls_that_the_kernel_refuses",
    "handler.privileged",
    "handler.same_surroundings_as_native",
    "network.page_from_the_pods_address",
    "security.all_added",
    "security.host_device",
    "security.privileged",
    "userns.files_are_owned_rightly_on_the_host",
    "userns.network",
    "userns.privileged_has_no_power_over_the_host",
    "userns.root_has_no_power_over_the_host",
    "userns.root_has_power_inside",
];

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

    /// Takes out the cases that need something else, and says so; with `chosen` also those
    /// that are not chosen for the guest.
    pub fn retain(&self, cases: &mut Vec<Case>, chosen: bool) {
        cases.retain(|case| !chosen || self.is_chosen(case));
        let mut missing: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        cases.retain(|case| {
            let lacking = case.needs.iter().find(|need| !self.has(**need));
            if let Some(need) = lacking {
                missing.entry(format!("{need:?}")).or_default().push(case.name);
            }
            lacking.is_none()
        });
        for (need, names) in missing {
            let (count, names) = (names.len(), names.join(" "));
            println!("not on this machine: {count} cases that need {need}: {names}");
        }
    }

    fn is_chosen(&self, case: &Case) -> bool {
        let listed = |names: &[&str]| names.iter().any(|name| case.name.starts_with(name));
        let once = || !case.needs.is_empty() || listed(CHOSEN_ONCE);
        match self.driver {
            Driver::Cgroupfs => listed(CHOSEN) || once(),
            Driver::Systemd => listed(CHOSEN) || case.needs.contains(&Need::SystemdDriver),
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
            Need::Recorder => {
                [crate::power::RECORDER, crate::power::FUSE].iter().all(|p| Path::new(p).exists())
            }
            Need::Containerd => Containerd::version().is_ok(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_is_there() {
        let cases = crate::cases::all();
        for name in CHOSEN.iter().chain(CHOSEN_ONCE) {
            assert!(cases.iter().any(|case| case.name.starts_with(name)), "there is no {name}");
        }
    }
}
